"""Recipes shipped with the package. Nothing to import: `stunet.config` reads the YAML files."""
