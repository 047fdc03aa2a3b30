"""Bundles in other places: a model hub, an object store; fetched, checked and published."""
