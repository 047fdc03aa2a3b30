"""Sliding window and Predictor: a scan in, labels out, in world space."""
