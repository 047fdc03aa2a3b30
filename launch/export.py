"""`export --format`: a bundle for other software."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from stunet.bundle import read_bundle
from stunet.errors import ConfigError
from stunet.hub.fetch import fetch

EXPORTERS = {
    "onnx": "stunet.exporters.onnx_model:write_onnx",
    "monai": "stunet.exporters.monai_bundle:write_monai_bundle",
}


def export_as(form: str, bundle: str, out: Path) -> Path:
    """Write a bundle in another format and return where it lies.

    Args:
        form: A key of `EXPORTERS`.
        bundle: Anything that `stunet.load` takes.
        out: File or folder to make.

    Raises:
        ConfigError: The format is not known.
    """
    if form not in EXPORTERS:
        raise ConfigError(f"export --format {form}: give {', '.join(EXPORTERS)} or bundle")
    module, _, name = EXPORTERS[form].partition(":")
    written: Path = getattr(import_module(module), name)(read_bundle(fetch(bundle)), out)
    return written
