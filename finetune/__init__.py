"""Using a bundle on other data: transfer evaluation."""
