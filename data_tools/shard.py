"""From a store to tars of whole volumes that webdataset reads and pre-training streams from.

For storage that is slow to seek or far away, and to hand a data set on. Not a replacement of the
store: tars cannot be read at random places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stunet.errors import ConfigError, DataError
from stunet.io.atomic import fsync_folder, leftovers
from stunet.io.manifest import CaseRow
from stunet.io.shards import INDEX, TarRecord, read_tar, tar_name, write_index, write_tar
from stunet.io.store import Store, open_store

Advance = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ShardConfig:
    """How cases are shared out over tars. A tar ends at whichever limit comes first.

    Attributes:
        cases: Most cases in a tar.
        tar_mb: Megabytes after which a tar ends, reckoned from the cases' size in the store;
            0.5 to 1 GB is one comfortable sequential read.
    """

    cases: int = 32
    tar_mb: int = 1000

    def __post_init__(self) -> None:
        if self.cases < 1 or self.tar_mb < 1:
            raise ConfigError(
                f"cases={self.cases}, tar_mb={self.tar_mb}: give at least 1 case and 1 MB per tar"
            )


def shard(root: str | Path, out: Path, config: ShardConfig, advance: Advance) -> Path:
    """Write the tars of a store; the same command continues where it was stopped.

    Args:
        root: A finished store, a folder or a URL.
        out: Folder of the tars.
        config: Sizes.
        advance: Called with tars done, tars in all, and the name of the last.

    Returns:
        `out`.

    Raises:
        DataError: The store is damaged, `out` holds something else or cannot be written.
    """
    store = open_store(root)
    groups = group_cases(store.rows, config)
    tars: dict[str, TarRecord] = {}
    rows: list[CaseRow] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        _clear(out, {tar_name(number) for number in range(len(groups))})
        for number, cases in enumerate(groups):
            path = out / tar_name(number)
            record, inside = _finish_tar(path, store, cases)
            tars[path.name] = record
            rows += inside
            advance(number + 1, len(groups), path.name)
        write_index(out, store.info, tars, rows)
        fsync_folder(out)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error.strerror}); mend that and run 'stunet data shard'"
            " again, it continues"
        ) from error
    return out


def group_cases(rows: Sequence[CaseRow], config: ShardConfig) -> list[list[int]]:
    """Return the cases of each tar, as indices in the order of the store."""
    groups: list[list[int]] = [[]]
    filled = 0
    for index, row in enumerate(rows):
        size = sum(record.bytes for record in row.files.values())
        full = len(groups[-1]) == config.cases or filled + size > config.tar_mb * 1e6
        if groups[-1] and full:
            groups.append([])
            filled = 0
        groups[-1].append(index)
        filled += size
    return groups


def _finish_tar(
    path: Path, store: Store, cases: Sequence[int]
) -> tuple[TarRecord, tuple[CaseRow, ...]]:
    """Write a tar unless a whole one of exactly these cases is there; read it back either way."""
    if path.exists():
        try:
            record, rows = read_tar(path)
        except DataError:
            rows = ()  # written anew just below
        if rows and _same_cases(rows, [store.rows[case] for case in cases]):
            return record, rows
    write_tar(path, store, cases)
    return read_tar(path)


def _same_cases(inside: Sequence[CaseRow], wanted: Sequence[CaseRow]) -> bool:
    """Whether rows of a tar and of a store tell of the same cases, however they are stored."""

    def essence(row: CaseRow) -> CaseRow:
        return replace(
            row,
            path="",
            files={},
            index_offset=0,
            foreground_offset=0,
            image=replace(row.image, chunk=(), shard=(), codecs=()),
            label=replace(row.label, chunk=(), shard=(), codecs=()),
        )

    return list(map(essence, inside)) == list(map(essence, wanted))


def _clear(out: Path, names: set[str]) -> None:
    """Remove the old index and what a killed run left; refuse a folder with other things in it.

    Raises:
        DataError: There are tars that this data set does not have.
    """
    for leftover in leftovers(out):
        leftover.unlink()
    foreign = sorted(path.name for path in out.glob("*.tar") if path.name not in names)
    if foreign:
        raise DataError(
            f"{out}: holds {foreign[0]}, which is none of the {len(names)} tars of this store with"
            " these sizes; name another folder or empty this one"
        )
    (out / INDEX).unlink(missing_ok=True)
