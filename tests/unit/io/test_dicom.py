"""DICOM series: geometry and rescaling from files written byte by byte, and series refused."""

import struct
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from stunet.errors import VolumeError
from stunet.io.volume import read_image, read_label, write_label

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
CT_IMAGE, PET_IMAGE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.128"
LONG_FORM = ("OB", "OW")  # value representations with a 4-byte length
ROWS, COLUMNS = 5, 4


def element(tag: str, form: str, value: bytes | int | str | Sequence[float]) -> bytes:
    """One data element, explicit little endian (DICOM PS3.5, section 7.1.2)."""
    if isinstance(value, int):
        data = struct.pack("<H", value)
    elif isinstance(value, bytes):
        data = value
    else:
        text = value if isinstance(value, str) else "\\".join(f"{x:.10g}" for x in value)
        data = text.encode()
        data += (b"\0" if form == "UI" else b" ") * (len(data) % 2)
    group, number = (int(part, 16) for part in tag.split(","))
    length = struct.pack("<HI", 0, len(data)) if form in LONG_FORM else struct.pack("<H", len(data))
    return struct.pack("<HH", group, number) + form.encode() + length + data


def write_slice(path: Path, stored_ji: np.ndarray, **changes: object) -> None:
    """A minimal slice; `changes` replaces values by their name below, None leaves one out."""
    values: dict[str, tuple[str, str, object]] = {
        "sop_class": ("0008,0016", "UI", CT_IMAGE),
        "modality": ("0008,0060", "CS", "CT"),
        "description": ("0008,103e", "LO", "thorax"),
        "thickness": ("0018,0050", "DS", "3"),
        "series": ("0020,000e", "UI", "1.2.3"),
        "position": ("0020,0032", "DS", (0, 0, 0)),
        "direction": ("0020,0037", "DS", (1, 0, 0, 0, 1, 0)),
        "samples": ("0028,0002", "US", 1),
        "photometric": ("0028,0004", "CS", "MONOCHROME2"),
        "frames": ("0028,0008", "IS", "1"),
        "rows": ("0028,0010", "US", stored_ji.shape[0]),
        "columns": ("0028,0011", "US", stored_ji.shape[1]),
        "spacing": ("0028,0030", "DS", (2, 1.5)),  # between rows, between columns
        "allocated": ("0028,0100", "US", 16),
        "stored_bits": ("0028,0101", "US", 16),
        "high_bit": ("0028,0102", "US", 15),
        "signed": ("0028,0103", "US", 1),
        "intercept": ("0028,1052", "DS", "-1000"),
        "slope": ("0028,1053", "DS", "1"),
        "pixels": ("7fe0,0010", "OW", stored_ji.astype("<i2").tobytes()),
    }
    body = b"".join(
        element(tag, form, changes.get(name, value))
        for name, (tag, form, value) in values.items()
        if changes.get(name, value) is not None
    )
    meta = element("0002,0001", "OB", b"\0\1") + element("0002,0002", "UI", CT_IMAGE)
    meta += element("0002,0003", "UI", "1.2.3.4") + element(
        "0002,0010", "UI", EXPLICIT_LITTLE_ENDIAN
    )
    length = element("0002,0000", "UL", struct.pack("<I", len(meta)))
    path.write_bytes(b"\0" * 128 + b"DICM" + length + meta + body)


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3000, (count, ROWS, COLUMNS)).astype(np.int16)


def write_series(
    folder: Path, positions: Sequence[tuple[float, ...]], **changes: object
) -> np.ndarray:
    """Slices whose names run against their positions."""
    folder.mkdir(exist_ok=True)
    stored = pixels(len(positions))
    for number, (position, plane) in enumerate(zip(positions, stored, strict=True)):
        write_slice(folder / f"s{99 - number}.dcm", plane, **{"position": position, **changes})
    return stored


STRAIGHT = [(-10.0, -20.0, 3.0 * k) for k in range(6)]


def test_axial_series(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stored = write_series(tmp_path / "series", STRAIGHT)
    (tmp_path / "series" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "series" / "notes.txt").write_text("not DICOM")
    volume = read_image(tmp_path / "series")
    assert volume.array.dtype.kind == "i"
    assert np.array_equal(volume.array[0, :, ::-1, ::-1], stored - 1000)
    assert volume.spacing_mm == (3.0, 2.0, 1.5)
    assert volume.source.shape == (COLUMNS, ROWS, 6)
    expected = np.diag([-1.5, -2.0, 3.0, 1.0])
    expected[:3, 3] = (10, 20, 0)
    assert np.array_equal(volume.source.affine, expected)
    assert capfd.readouterr() == ("", "")

    label = (volume.array[0] > 500).astype(np.uint8)
    write_label(tmp_path / "label.nii.gz", label, volume, {"bright": 1})
    written = nib.load(tmp_path / "label.nii.gz")
    assert np.array_equal(written.affine, expected)
    assert np.array_equal(np.asanyarray(written.dataobj).T, stored - 1000 > 500)
    assert np.array_equal(read_label(tmp_path / "label.nii.gz", volume).array[0], label)


def test_oblique_coronal_series(tmp_path: Path) -> None:
    turn = np.radians(10)
    along_i = np.array([np.cos(turn), np.sin(turn), 0])
    along_j = np.array([0, 0, -1.0])
    normal = np.cross(along_i, along_j)
    positions = [tuple(np.array([5, 6, 70]) + 4 * k * normal) for k in range(3)]
    stored = write_series(
        tmp_path / "s", positions, direction=(*along_i, *along_j), spacing=(2, 1.5)
    )
    volume = read_image(tmp_path / "s")
    for k, j, i in [(0, 0, 0), (2, 4, 3), (1, 2, 1)]:
        point_lps = np.array([5, 6, 70]) + 1.5 * i * along_i + 2 * j * along_j + 4 * k * normal
        index = np.linalg.solve(volume.affine, (*(point_lps * (-1, -1, 1)), 1))
        x, y, z = np.round(index[:3]).astype(int)
        assert_allclose(index[:3], (x, y, z), atol=1e-6)
        assert volume.array[0, z, y, x] == stored[k, j, i] - 1000


def test_each_slice_has_its_own_slope(tmp_path: Path) -> None:
    stored = pixels(4)
    slopes = (1, 0.25, 2.5, 0.125)
    for k, slope in enumerate(slopes):
        write_slice(
            tmp_path / f"{k}.dcm",
            stored[k],
            position=(0, 0, k * 3.0),
            slope=str(slope),
            intercept="0",
            sop_class=PET_IMAGE,
            modality="PT",
        )
    volume = read_image(tmp_path)
    assert volume.array.dtype == np.float32
    expected = stored * np.array(slopes)[:, None, None]
    assert_allclose(volume.array[0, :, ::-1, ::-1], expected, rtol=1e-6)


@pytest.mark.parametrize("sop_class", [CT_IMAGE, "1.2.840.10008.5.1.4.1.1.4", None])
def test_rescaling_does_not_depend_on_the_kind_of_image(
    tmp_path: Path, sop_class: str | None
) -> None:
    stored = write_series(tmp_path / "s", STRAIGHT, slope="2", sop_class=sop_class)
    assert np.array_equal(
        read_image(tmp_path / "s").array[0, :, ::-1, ::-1], stored.astype(int) * 2 - 1000
    )


def test_single_slice_takes_its_thickness(tmp_path: Path) -> None:
    write_series(tmp_path / "s", STRAIGHT[:1])
    assert read_image(tmp_path / "s").spacing_mm == (3.0, 2.0, 1.5)
    write_series(tmp_path / "s", STRAIGHT[:1], thickness=None)
    with pytest.raises(VolumeError, match="holds one slice, of thickness ''"):
        read_image(tmp_path / "s")


def test_rounded_positions_are_even(tmp_path: Path) -> None:
    write_series(tmp_path / "s", [(0, 0, round(k * 0.625, 2)) for k in range(9)])
    assert read_image(tmp_path / "s").spacing_mm[0] == 0.625


def refuse(folder: Path, message: str) -> None:
    with pytest.raises(VolumeError, match=message) as caught:
        read_image(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", [1, 3, 4])
def test_missing_slice(tmp_path: Path, lost: int) -> None:
    write_series(tmp_path / "s", [p for k, p in enumerate(STRAIGHT) if k != lost])
    before, after = f"s{100 - lost}.dcm", f"s{99 - lost}.dcm"
    refuse(tmp_path / "s", f"uneven: 6 mm between {before} and {after}, 3 mm elsewhere")


def test_shifted_slice(tmp_path: Path) -> None:
    moved = [(x + (5 if k == 2 else 0), y, z) for k, (x, y, z) in enumerate(STRAIGHT)]
    write_series(tmp_path / "s", moved)
    refuse(tmp_path / "s", "slices are uneven")


def test_tilted_gantry(tmp_path: Path) -> None:
    tilt = np.radians(18)
    along_j = (0, np.cos(tilt), np.sin(tilt))
    write_series(tmp_path / "s", STRAIGHT, direction=(1, 0, 0, *along_j))
    refuse(tmp_path / "s", "sheared affine: axes j and k meet at 72.00 degrees")


def test_repeated_position(tmp_path: Path) -> None:
    write_series(tmp_path / "s", [*STRAIGHT, STRAIGHT[2]])
    refuse(tmp_path / "s", r"s9[37]\.dcm and s9[37]\.dcm lie at the same position")


def test_two_series(tmp_path: Path) -> None:
    write_series(tmp_path / "s", STRAIGHT)
    other = tmp_path / "s" / "other.dcm"
    write_slice(other, pixels(1)[0], series="9.8.7", description="scout")
    refuse(
        tmp_path / "s", r"2 series: 9\.8\.7 \(CT scout, 1 files\); 1\.2\.3 \(CT thorax, 6 files\)"
    )


@pytest.mark.parametrize(
    "change", [{"spacing": (2, 1.6)}, {"direction": (1, 0, 0, 0, 0, -1)}, {"rows": 4, "columns": 5}]
)
def test_another_plane_in_the_series(tmp_path: Path, change: dict[str, object]) -> None:
    write_series(tmp_path / "s", STRAIGHT)
    write_slice(tmp_path / "s" / "localizer.dcm", pixels(1)[0], position=(-10, -20, 18), **change)
    refuse(tmp_path / "s", r"localizer\.dcm|s9\d\.dcm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": None}, r"tag \(0020,0032\) is '', not 3 numbers"),
        ({"direction": (1, 0, 0)}, r"tag \(0020,0037\) is .*, not 6 numbers"),
        ({"spacing": None}, r"tag \(0028,0030\) is '', not 2 numbers"),
        ({"spacing": (0, 1)}, r"spacing \(1, 0, 3\) mm has a zero"),
        ({"frames": "2", "pixels": bytes(2 * 2 * ROWS * COLUMNS)}, "is a multi-frame or colour"),
    ],
)
def test_slices_that_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_series(tmp_path / "s", STRAIGHT, **change)
    refuse(tmp_path / "s", message)


def test_truncated_slice_is_not_dropped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_series(tmp_path / "s", STRAIGHT)
    last = tmp_path / "s" / "s94.dcm"
    data = last.read_bytes()
    for length in (140, len(data) // 2, len(data) - 8):
        last.write_bytes(data[:length])
        refuse(tmp_path / "s", r"s94\.dcm: (cannot be decoded|tag)")
    assert capfd.readouterr() == ("", "")


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    refuse(tmp_path, "holds no DICOM image")
