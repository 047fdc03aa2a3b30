"""Read back by highdicom: segments, names, and where each voxel lies in space."""

from pathlib import Path

import numpy as np
import pytest

from stunet.errors import VolumeError
from stunet.inference.dicom_seg import write_dicom_seg
from stunet.io.volume import read_image, volume_of_array

hd = pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")

LABELS = {"background": 0, "liver": 5, "spleen": 3, "not there": 9}


@pytest.fixture
def series(shared_data, tmp_path) -> Path:
    """A real CT series; its identifiers were removed and are put back."""
    folder = tmp_path / "series"
    folder.mkdir()
    for file in (shared_data / "train_ct" / "totalseg" / "example_ct_dicom").iterdir():
        image = pydicom.dcmread(file)
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID
        image.SeriesInstanceUID, image.StudyInstanceUID = "1.2.3.4", "1.2.3"
        image.save_as(folder / file.name)
    return folder


def test_segments_names_and_places(series, tmp_path):
    scan = read_image(series)
    label = np.zeros(scan.shape_zyx, np.uint8)
    label[2:7, 100:150, 200:300] = 5
    label[10:12, 5:9, 7:60] = 3
    write_dicom_seg(tmp_path / "seg.dcm", label, scan, LABELS)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    names = [seg.get_segment_description(n).segment_label for n in seg.segment_numbers]
    assert names == ["spleen", "liver"]
    referred = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in referred} == {
        pydicom.dcmread(file).SOPInstanceUID for file in series.iterdir()
    }
    volume = seg.get_volume(combine_segments=True)
    to_ras = np.diag([-1.0, -1, 1, 1])
    for number, value in ((1, 3), (2, 5)):
        dicom_index = np.argwhere(volume.array == number)
        ours_index = np.argwhere(label == value)[:, ::-1]  # x, y, z
        theirs = (to_ras @ volume.affine @ np.c_[dicom_index, np.ones(len(dicom_index))].T)[:3].T
        ours = (scan.affine @ np.c_[ours_index, np.ones(len(ours_index))].T)[:3].T
        order_a, order_b = (np.lexsort(np.round(p, 2).T) for p in (theirs, ours))
        np.testing.assert_allclose(theirs[order_a], ours[order_b], atol=1e-3)


def test_the_same_result_is_the_same_object(series, tmp_path):
    scan = read_image(series)
    label = np.zeros(scan.shape_zyx, np.uint8)
    label[3] = 5
    uids = []
    for shift in (0, 0, 1):
        write_dicom_seg(tmp_path / "seg.dcm", np.roll(label, shift, axis=0), scan, LABELS)
        uids.append(pydicom.dcmread(tmp_path / "seg.dcm").SOPInstanceUID)
    assert uids[0] == uids[1] != uids[2]


def test_a_scan_without_a_finding_is_written_too(series, tmp_path):
    scan = read_image(series)
    write_dicom_seg(tmp_path / "seg.dcm", np.zeros(scan.shape_zyx, np.uint8), scan, LABELS)
    assert not hd.seg.segread(tmp_path / "seg.dcm").pixel_array.any()


def test_what_no_object_can_refer_to_is_refused(shared_data, tmp_path):
    scan = volume_of_array(np.zeros((4, 4, 4), np.int16), np.eye(4))
    with pytest.raises(VolumeError, match="is no DICOM series"):
        write_dicom_seg(tmp_path / "seg.dcm", np.zeros((4, 4, 4), np.uint8), scan, LABELS)
    bare = read_image(shared_data / "train_ct" / "totalseg" / "example_ct_dicom")
    with pytest.raises(VolumeError, match="have no SOPClassUID"):
        write_dicom_seg(tmp_path / "seg.dcm", np.zeros(bare.shape_zyx, np.uint8), bare, LABELS)
    assert not (tmp_path / "seg.dcm").exists()
