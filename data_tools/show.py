"""Look at a scan or a prepared store: its geometry as text, its anatomy as a contact sheet.

Not for checking a whole data set (`verify`) nor for measuring.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_tools.contact_sheet import draw_cases, draw_scan, millilitres
from data_tools.scan import Scan, scan_of
from stunet.errors import DataError, VolumeError
from stunet.io.manifest import MANIFEST, CaseRow
from stunet.io.orientation import axis_codes, spacing_zyx_mm
from stunet.io.store import Store, open_store
from stunet.io.volume import Volume, read_image, read_label, read_label_table

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_CASES = 24  # rows of a contact sheet
PERCENTILES = (0.5, 50, 99.5)


def show(path: str | Path, out: Path | None = None, label: Path | None = None) -> str:
    """Describe an image file, a DICOM folder or a store, and draw it if `out` is given.

    Args:
        path: What `stunet.io.volume.read_image` reads, or the root of a store.
        out: A PNG to write: three planes with several slices each, or a row per case of a store.
            Patient right is on the left. Several channels: the first is drawn.
        label: Label file of the image, laid over it.

    Returns:
        Lines of text: shape, spacing, orientation, origin, type and values.

    Raises:
        VolumeError: A file cannot be used as it is, or a store is given a label.
        DataError: The store is incomplete or damaged, or `labels.json` is no table.
    """
    path = Path(path)
    if (path / MANIFEST).is_file():
        if label is not None:
            raise VolumeError(f"{label}: a store has its labels inside; leave the label out")
        return _show_store(path, out)
    image = read_image(path)
    text = _describe_image(image)
    truth = read_label(label, image) if label is not None else None
    names = _label_names(Path(label)) if label is not None else {}
    if truth is not None:
        text += "\n" + _describe_label(truth, names)
    if out is not None:
        scan = scan_of(
            title=path.name,
            subtitle=f"{_join(image.shape_zyx)} voxels, {_join(image.spacing_mm)} mm (z, y, x),"
            f" stored {axis_codes(image.source.affine)}",
            image_zyx=image.array[0],
            label_zyx=truth.array[0] if truth is not None else np.zeros(image.shape_zyx, np.uint8),
            spacing_mm=image.spacing_mm,
            affine=image.affine,
        )
        draw_scan(out, scan, names)
    return text


def _describe_image(image: Volume) -> str:
    source = image.source
    channels = len(image.array)
    stored = source.affine
    tilt = math.degrees(math.acos(min(1.0, _straightness(stored))))
    lines = {
        "file": f"{source.path} ({source.format})",
        "shape": f"{_join(image.shape_zyx)} voxels (z, y, x), {channels}"
        f" channel{'s' if channels > 1 else ''}, {image.array.dtype}",
        "spacing": f"{_join(image.spacing_mm)} mm (z, y, x)",
        "extent": _join(n * s for n, s in zip(image.shape_zyx, image.spacing_mm, strict=True))
        + " mm (z, y, x)",
        "orientation": f"stored {axis_codes(stored)}, shown RAS+"
        + (f", {tilt:.1f} degrees oblique" if tilt > 0.05 else ""),
        "origin": f"stored ({', '.join(f'{mm:.6g}' for mm in stored[:3, 3])}) mm (x, y, z)",
    }
    for number, channel in enumerate(image.array):
        name = "values" if channels == 1 else f"values {number}"
        low, middle, high = np.percentile(channel, PERCENTILES)
        lines[name] = (
            f"{channel.min():.6g} to {channel.max():.6g}, percentiles"
            f" 0.5: {low:.6g}, 50: {middle:.6g}, 99.5: {high:.6g}"
        )
    return "\n".join(f"{name:<12} {value}" for name, value in lines.items())


def _describe_label(label: Volume, names: dict[int, str]) -> str:
    values, counts = np.unique(label.array, return_counts=True)
    lines = [f"{'label':<12} {label.source.path}"]
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if value:
            name = names.get(value, f"label {value}")
            lines.append(
                f"{value:>12} {name}: {count} voxels, {millilitres(count, label.spacing_mm)}"
            )
    return "\n".join(lines)


def _show_store(root: Path, out: Path | None) -> str:
    store = open_store(root)
    info, rows = store.info, store.rows
    names = {value: name for name, value in info.labels.items() if value}
    drawn = np.linspace(0, len(rows) - 1, min(len(rows), MOST_CASES)).round().astype(int).tolist()
    lines = [
        f"{'store':<12} {info.name} ({root}), licence {info.licence}",
        f"{'cases':<12} {len(rows)}",
        f"{'channels':<12} {', '.join(f'{each.name} ({each.scheme})' for each in info.channels)}",
        f"{'spacing':<12} {_join(info.spacing_mm)} mm (z, y, x)",
        f"{'patch':<12} {_join(info.patch_size)} voxels (z, y, x)",
        f"{'labels':<12} {', '.join(f'{value} {name}' for value, name in names.items())}",
    ]
    lines += [f"{row.case_id:<12} {_describe_row(row)}" for row in rows]
    if out is not None:
        scans = (_stored_scan(store, case) for case in drawn)
        shown = f"{len(drawn)} of {len(rows)} cases, {_join(info.spacing_mm)} mm (z, y, x)"
        draw_cases(out, scans, names, info.name, f"{shown}, licence {info.licence}")
    return "\n".join(lines)


def _describe_row(row: CaseRow) -> str:
    present = sum(1 for value, count in row.voxel_counts.items() if value and count)
    return f"{_join(row.shape_zyx)} voxels, {present} labels, {row.split or 'no split'}"


def _stored_scan(store: Store, case: int) -> Scan:
    row = store.rows[case]
    stored = store.read_image(case, (0, 0, 0), row.shape_zyx)[0]
    affine = np.reshape(row.affine, (4, 4))
    label = store.read_label(case, (0, 0, 0), row.shape_zyx)
    return scan_of(
        title=row.case_id,
        subtitle=f"{_join(row.shape_zyx)}\n{row.split or 'no split'}",
        image_zyx=stored.astype(np.float32) * row.scale[0] + row.offset[0],
        label_zyx=np.where(label == store.info.ignore_label, 0, label),
        spacing_mm=spacing_zyx_mm(affine),
        affine=affine,
    )


def _label_names(label: Path) -> dict[int, str]:
    """Names from the file's own header, else from a `labels.json` beside it or one folder up."""
    table = read_label_table(label)
    beside = (folder / "labels.json" for folder in (label.parent, label.parent.parent))
    if not table and (found := next((file for file in beside if file.is_file()), None)):
        try:
            table = {name: int(value) for name, value in json.loads(found.read_bytes()).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"{found}: is no table of names and label values ({error}); write"
                ' {"name": value, ...}'
            ) from error
    return {value: name for name, value in table.items()}


def _straightness(affine: np.ndarray) -> float:
    """The least cosine between an axis and the world axis it runs closest to."""
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(columns).max(axis=0).min())


def _join(numbers: Iterable[float]) -> str:
    return " × ".join(f"{number:.4g}" for number in numbers)
