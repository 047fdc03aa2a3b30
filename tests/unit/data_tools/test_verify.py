from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_tools.verify import Finding, verify
from stunet.io.atomic import atomic_write_bytes, atomic_write_json, temporary_sibling
from stunet.io.manifest import DatasetInfo, dataset_json
from stunet.io.manifest_rows import read_rows
from stunet.io.store_writer import StoreWriter, case_path

IMAGE_A = f"{case_path('a')}/image/c/0/0/0/0"
LABEL_B = f"{case_path('b')}/label/c/0/0/0"


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def vouch(root: Path, info: DatasetInfo) -> None:
    """Renew the checksums in `dataset.json`, so that only what was changed is wrong."""
    atomic_write_json(root / "dataset.json", dataset_json(root, info))


def alter_row(root: Path, info: DatasetInfo, number: int, change: Callable[[dict], object]) -> None:
    rows = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    change(rows[number])
    atomic_write_bytes(root / "manifest.jsonl", "\n".join(map(json.dumps, rows)).encode())
    vouch(root, info)


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    assert findings[0].action
    return findings[0]


def test_a_sound_store_has_no_findings(small_store: Any) -> None:
    assert verify(str(small_store.root)) == []


def test_a_sound_store_of_two_channels_has_no_findings(
    tmp_path: Path, make_info: Callable[..., DatasetInfo], make_case: Callable
) -> None:
    writer = StoreWriter(tmp_path, make_info(2, "network"))
    writer.finish([writer.write_case(make_case("a", channels=2))])
    assert verify(tmp_path) == []


def test_a_flipped_byte_names_the_file_and_the_chunk(small_store: Any) -> None:
    flip(small_store.root / IMAGE_A, 1000)
    file, block = verify(small_store.root)
    assert (file.case_id, file.file) == ("a", IMAGE_A)
    assert "crc32c" in file.problem
    assert (block.case_id, block.file) == ("a", f"{case_path('a')}/image")
    assert "1 of 12 blocks cannot be read" in block.problem  # 70 x 40 x 50 in 32^3
    assert f"{IMAGE_A} chunk (0, " in block.problem
    assert "checksum mismatch" in block.problem
    assert "prepare" in block.action


def test_a_missing_shard_is_named(small_store: Any) -> None:
    (small_store.root / LABEL_B).unlink()
    finding = only(verify(small_store.root))
    assert (finding.case_id, finding.file, finding.problem) == ("b", LABEL_B, "missing")


def test_a_short_shard_is_named(small_store: Any) -> None:
    os.truncate(small_store.root / IMAGE_A, 5000)
    file, blocks = verify(small_store.root)
    assert file.file == IMAGE_A
    assert file.problem.startswith("5000 bytes")
    assert "has 5000 bytes, not " in blocks.problem


def test_a_label_outside_the_label_space_is_named_with_its_voxels(small_store: Any) -> None:
    labels = {name: value for name, value in small_store.info.labels.items() if name != "spleen"}
    vouch(small_store.root, replace(small_store.info, labels=labels))
    a, b = verify(small_store.root)
    assert (a.case_id, a.file) == ("a", f"{case_path('a')}/label")
    assert a.problem == "label value 2 in 512 voxels is not in the label space"
    assert b.case_id == "b"


def test_the_ignored_value_belongs_to_the_label_space_only_if_declared(small_store: Any) -> None:
    vouch(small_store.root, replace(small_store.info, ignore_label=None))
    problems = [f.problem for f in verify(small_store.root) if "label space" in f.problem]
    assert problems == [
        "label value 9 in 2000 voxels is not in the label space",
        "label value 9 in 4160 voxels is not in the label space",
    ]


def test_voxels_of_a_structure_that_is_not_annotated_are_found(small_store: Any) -> None:
    alter_row(small_store.root, small_store.info, 1, lambda row: row.update(annotated=[1, 7]))
    finding = only(verify(small_store.root))
    assert (finding.case_id, finding.file) == ("b", f"{case_path('b')}/label")
    assert finding.problem == "label value 2 has 512 voxels but is not annotated in the case"


def test_voxel_counts_are_compared(small_store: Any) -> None:
    alter_row(
        small_store.root, small_store.info, 1, lambda row: row["voxel_counts"].update({"7": 2})
    )
    finding = only(verify(small_store.root))
    assert finding.case_id == "b"
    assert finding.problem == "label value 7 has 1 voxels, recorded are 2"


def test_foreground_voxels_of_another_label_are_found(small_store: Any) -> None:
    row = read_rows(small_store.root)[1]
    flip(small_store.root / "fg.bin", row.foreground_offset + 4 * (1024 + 3))  # a spleen voxel
    vouch(small_store.root, small_store.info)
    finding = only(verify(small_store.root))
    assert (finding.case_id, finding.file) == ("b", "fg.bin")
    assert finding.problem.startswith("label value 2: ")


def test_missing_foreground_voxels_are_found(small_store: Any) -> None:
    alter_row(small_store.root, small_store.info, 0, lambda row: row["foreground"].update({"7": 0}))
    finding = only(verify(small_store.root))
    assert finding.problem == "label value 7: 0 foreground voxels, 0 of them different, not 1"


@pytest.mark.parametrize("name", ["fg.bin", "index.bin"])
def test_a_flipped_byte_in_an_index_is_named(small_store: Any, name: str) -> None:
    flip(small_store.root / name, 2)
    first, *others = verify(small_store.root)
    assert (first.case_id, first.file) == ("", name)
    assert {finding.case_id for finding in others} == {"a"}


def test_a_flipped_byte_in_the_manifest_is_named(small_store: Any) -> None:
    flip(small_store.root / "manifest.jsonl", 30)
    assert only(verify(small_store.root)).file == "manifest.jsonl"


def test_a_manifest_with_a_case_twice_is_one_finding(small_store: Any) -> None:
    alter_row(small_store.root, small_store.info, 1, lambda row: row.update(case_id="a"))
    finding = only(verify(small_store.root))
    assert (finding.file, finding.action) == ("manifest.jsonl", "give each case its own id")


def test_no_store_is_one_finding(tmp_path: Path) -> None:
    finding = only(verify(tmp_path))
    assert (finding.file, finding.action) == ("dataset.json", "run 'stunet data prepare'")


def test_strays_and_leftovers_are_named(small_store: Any) -> None:
    root = small_store.root
    temporary = temporary_sibling(root / case_path("a"))
    temporary.mkdir()
    (root / "cases" / "00" / "old").mkdir(parents=True)
    (root / case_path("b") / "notes.txt").touch()
    findings = verify(root)
    assert [(finding.file, finding.problem) for finding in findings] == [
        (temporary.relative_to(root).as_posix(), "left behind by an interrupted preparation"),
        ("cases/00/old", "not in the manifest"),
        (f"{case_path('b')}/notes.txt", "not in the manifest"),
    ]
