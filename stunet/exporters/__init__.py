"""Bundles for other software."""
