"""Fused operations for GPUs, in Triton; import a module of these only where it is used."""
