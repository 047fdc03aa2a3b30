"""Checkpoints of other trainers, read without trusting them, and written as bundles."""
