from pathlib import Path

import pytest

from stunet.errors import DataError
from stunet.inference.inputs import Scan, list_scans


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def test_files_and_folders_of_files(tmp_path):
    one, *_ = touch(tmp_path, "b.nii", "many/c.nrrd", "many/a.nii.gz", "many/notes.txt")
    touch(tmp_path, "many/.hidden.nii.gz")
    scans = list_scans([one, tmp_path / "many"], channels=1)
    assert [scan.name for scan in scans] == ["a", "b", "c"]
    assert scans[0].images == (tmp_path / "many" / "a.nii.gz",)


def test_dicom_series_and_folders_of_them(tmp_path):
    touch(tmp_path, "study/first/1.dcm", "study/first/2.dcm", "study/second/IM0", "alone/x")
    scans = list_scans([tmp_path / "study", tmp_path / "alone"], channels=1)
    folders = ("alone", "study/first", "study/second")
    assert scans == tuple(Scan(Path(name).name, (tmp_path / name,)) for name in folders)


def test_a_file_per_channel(tmp_path):
    names = ("p_0001.nii.gz", "p_0000.nii.gz", "q_0000.nii.gz", "scan_2019.nii.gz", "r.nii.gz")
    touch(tmp_path, *names)
    scans = {scan.name: [i.name for i in scan.images] for scan in list_scans([tmp_path], 2)}
    assert scans == {
        "p": ["p_0000.nii.gz", "p_0001.nii.gz"],
        "q": ["q_0000.nii.gz"],
        "r": ["r.nii.gz"],
        "scan_2019": ["scan_2019.nii.gz"],
    }


def test_one_channel_takes_off_nnunets_ending_only(tmp_path):
    touch(tmp_path, "p_0000.nii.gz", "q_0001.nii.gz")
    assert [scan.name for scan in list_scans([tmp_path], 1)] == ["p", "q_0001"]


def test_a_path_given_twice_is_one_scan(tmp_path):
    (path,) = touch(tmp_path, "a.nii.gz")
    assert len(list_scans([path, tmp_path, path], 1)) == 1


def test_what_does_not_exist_is_left_to_the_reader(tmp_path):
    assert list_scans([tmp_path / "a.nii.gz"], 1)[0].name == "a"


def test_two_scans_of_one_name_and_an_empty_folder_are_refused(tmp_path):
    touch(tmp_path, "x/a.nii.gz", "y/a.nrrd")
    with pytest.raises(DataError, match="both would be written as 'a'"):
        list_scans([tmp_path / "x", tmp_path / "y"], 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no scan"):
        list_scans([tmp_path / "empty"], 1)
