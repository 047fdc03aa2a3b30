"""Resampling, normalisation and augmentation: pure functions of (batch, draw)."""
