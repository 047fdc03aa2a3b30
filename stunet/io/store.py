"""The store: cases at one spacing, written once and atomically, read in random boxes.

`stunet.io.store_writer` fills the folder, `stunet data copy` puts it on an object store;
`open_store` gives the `Store` that the loader reads from, wherever it lies.

    root/dataset.json             what the cases share; written last: without it there is no store
    root/manifest.jsonl           a row per case
    root/index.bin, fg.bin        shard indices and foreground voxels of all cases
    root/cases/3f/<case>/         a zarr v3 group with the arrays `image` and `label`
    root/cases/3f/<case>.row.json, <case>.fg.bin    what a resumed preparation needs of the case

Not for files of scanners (`volume`) nor for webdataset shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stunet.errors import ConfigError
from stunet.io.foreground import ForegroundIndex
from stunet.io.layout import ArrayLayout
from stunet.io.manifest import (
    FOREGROUND,
    INDEX,
    MANIFEST,
    CaseRow,
    DatasetInfo,
    check_beside,
    read_dataset,
)
from stunet.io.manifest_rows import ManifestRows, read_rows
from stunet.io.remote import RemoteFolder, StoreOptions, is_url
from stunet.io.remote_shards import RemoteSource
from stunet.io.shard_cache import OPEN_COPIES, ShardCache
from stunet.io.shard_reader import Box, ShardReader, StoredArray
from stunet.io.shard_source import FileSource, ShardSource, StoreFiles
from stunet.io.store_mirror import mirror
from stunet.types import Size3


class Store:
    """A finished store, open for reading.

    Pickles without open files and connections, so it may be handed to loader workers, spawned or
    forked. Not for use from two threads at once.

    Args:
        folder, info, rows: See the attributes.
        source: Where shards come from; None: from files in `folder`.

    Attributes:
        root: Its folder or URL.
        folder: Where `dataset.json`, the manifest and the indices lie: `root`, or the local copies
            of these files if the store is remote.
        info: What the cases share.
        rows: The cases, sorted by id; `case` below is an index into them.
    """

    def __init__(
        self,
        folder: Path,
        info: DatasetInfo,
        rows: Sequence[CaseRow],
        source: ShardSource | None = None,
    ) -> None:
        self.folder = folder
        self.info = info
        self.rows = rows
        self.root: Path | str = folder if source is None else source.locate("")
        source = source or FileSource(StoreFiles(folder))
        self._reader = ShardReader(source, folder / INDEX)
        self._foreground = ForegroundIndex(folder / FOREGROUND)

    def read_image(
        self, case: int, start_zyx: Size3, shape_zyx: Size3, out: np.ndarray | None = None
    ) -> np.ndarray:
        """A box of the image, all channels.

        Args:
            case: Index into `rows`.
            start_zyx: First voxel.
            shape_zyx: Extent in voxels; the box must lie inside the volume.
            out: int16 (C, *shape_zyx) array to fill instead of a new one.

        Returns:
            int16 (C, z, y, x) as stored; physical value = stored * scale[c] + offset[c].

        Raises:
            DataError: A shard is missing, cut short or damaged.
            ValueError: The box leaves the volume, or `out` has another shape or type.
        """
        row = self.rows[case]
        start, shape = (0, *start_zyx), (row.image.shape[0], *shape_zyx)
        return self._reader.read(self._image(row), start, shape, out)

    def read_label(
        self, case: int, start_zyx: Size3, shape_zyx: Size3, out: np.ndarray | None = None
    ) -> np.ndarray:
        """A box of the label map: uint8 or uint16 (z, y, x); otherwise as `read_image`."""
        return self._reader.read(self._label(self.rows[case]), start_zyx, shape_zyx, out)

    def read_patch(
        self, case: int, start_zyx: Size3, shape_zyx: Size3
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image and label of a box, as `read_image` and `read_label`; a remote store's at once."""
        row = self.rows[case]
        image, label = self._image(row), self._label(row)
        image_czyx = np.empty((row.image.shape[0], *shape_zyx), row.image.dtype)
        label_zyx = np.empty(shape_zyx, row.label.dtype)
        self._reader.fill(
            [Box(image, (0, *start_zyx), image_czyx), Box(label, start_zyx, label_zyx)]
        )
        return image_czyx, label_zyx

    def foreground(self, case: int, label_value: int) -> np.ndarray:
        """Up to 1024 voxels of a label, int64 (n, 3) as z, y, x; none if the case lacks it."""
        row = self.rows[case]
        return self._foreground.coordinates(
            row.foreground_offset, row.foreground, label_value, row.shape_zyx
        )

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        self._reader.close()

    def _image(self, row: CaseRow) -> StoredArray:
        return _stored(row, "image", row.image, row.index_offset)

    def _label(self, row: CaseRow) -> StoredArray:
        return _stored(row, "label", row.label, row.label_index_offset)


def open_store(place: str | Path, options: StoreOptions | None = None) -> Store:
    """Open a finished store at a local path or any URL that fsspec knows.

    Checks the manifest, not the cases: a store may have a million of them. A shard's size is
    compared when it is first read, contents as they are read, all by `stunet data verify`.

    Args:
        place: Folder or URL.
        options: How a remote store is read; a local one ignores them.

    Raises:
        ConfigError: The shard cache is smaller than a shard.
        DataError: It is no store, of a newer format, or incomplete; the message says what to do.
    """
    if is_url(place):
        return _open_remote(RemoteFolder(str(place), options or StoreOptions()))
    root = Path(place)
    info, beside = read_dataset(root)
    check_beside(root, beside)
    return Store(root, info, read_rows(root))


def _open_remote(remote: RemoteFolder) -> Store:
    folder = mirror(remote)
    info, _ = read_dataset(folder)
    rows = ManifestRows(folder / MANIFEST, remote.locate(MANIFEST))
    if not remote.options.cache_bytes:
        return Store(folder, info, rows, RemoteSource(remote))
    largest = max(record.bytes for row in rows for record in row.files.values())
    if largest > remote.options.cache_bytes:
        raise ConfigError(
            f"remote.cache_bytes={remote.options.cache_bytes}: the largest shard of"
            f" {remote.locate()} has {largest} bytes; give room for at least a few shards, or 0"
        )
    return Store(folder, info, rows, FileSource(ShardCache(remote), OPEN_COPIES))


def _stored(row: CaseRow, name: str, layout: ArrayLayout, index_offset: int) -> StoredArray:
    within = f"{name}/"
    files = {
        path.removeprefix(within): record
        for path, record in row.files.items()
        if path.startswith(within)
    }
    return StoredArray(row.case_id, f"{row.path}/{name}", layout, index_offset, files)
