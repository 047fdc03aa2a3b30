"""Networks: single-device, no I/O."""
