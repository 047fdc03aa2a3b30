"""The store: cases at one spacing, written once and atomically, read in random boxes.

`stunet.io.store_writer` fills the folder; `open_store` checks it and gives the `Store` that the
loader reads from.

    root/dataset.json             what the cases share; written last: without it there is no store
    root/manifest.jsonl           a row per case
    root/index.bin, fg.bin        shard indices and foreground voxels of all cases
    root/cases/3f/<case>/         a zarr v3 group with the arrays `image` and `label`
    root/cases/3f/<case>.row.json, <case>.fg.bin    what a resumed preparation needs of the case

Not for files of scanners (`volume`) nor for webdataset shards.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stunet.io.foreground import (
    ForegroundIndex,
)
from stunet.io.manifest import (
    FOREGROUND,
    INDEX,
    CaseRow,
    DatasetInfo,
    check_beside,
    check_files,
    read_dataset,
    read_rows,
)
from stunet.io.shard_reader import ShardReader, StoredArray
from stunet.types import Size3


class Store:
    """A finished store, open for reading.

    Pickles without open files, so it may be handed to loader workers, spawned or forked. Not for
    use from two threads at once.

    Attributes:
        root: Its folder.
        info: What the cases share.
        rows: The cases, sorted by id; `case` below is an index into them.
    """

    def __init__(self, root: Path, info: DatasetInfo, rows: tuple[CaseRow, ...]) -> None:
        self.root = root
        self.info = info
        self.rows = rows
        self._reader = ShardReader(root, root / INDEX)
        self._foreground = ForegroundIndex(root / FOREGROUND)

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
        channels = row.image.shape[0]
        array = StoredArray(row.case_id, f"{row.path}/image", row.image, row.index_offset)
        return self._reader.read(array, (0, *start_zyx), (channels, *shape_zyx), out)

    def read_label(
        self, case: int, start_zyx: Size3, shape_zyx: Size3, out: np.ndarray | None = None
    ) -> np.ndarray:
        """A box of the label map: uint8 or uint16 (z, y, x); otherwise as `read_image`."""
        row = self.rows[case]
        array = StoredArray(row.case_id, f"{row.path}/label", row.label, row.label_index_offset)
        return self._reader.read(array, start_zyx, shape_zyx, out)

    def foreground(self, case: int, label_value: int) -> np.ndarray:
        """Up to 1024 voxels of a label, int64 (n, 3) as z, y, x; none if the case lacks it."""
        row = self.rows[case]
        return self._foreground.coordinates(
            row.foreground_offset, row.foreground, label_value, row.shape_zyx
        )

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        self._reader.close()


def open_store(root: str | Path) -> Store:
    """Open a finished store after checking that its files are there in full length.

    Contents are checked as they are read, all of them by `stunet data verify`.

    Raises:
        DataError: It is no store, of a newer format, or incomplete; the message says what to do.
    """
    root = Path(root)
    info, beside = read_dataset(root)
    check_beside(root, beside)
    rows = read_rows(root)
    for row in rows:
        check_files(root, row)
    return Store(root, info, rows)
