"""Supervised pre-training from a recipe."""
