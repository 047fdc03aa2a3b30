"""Dice + cross-entropy with deep supervision."""
