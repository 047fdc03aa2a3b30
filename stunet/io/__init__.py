"""Volumes in world space, the zarr store and its shard reader."""
