"""Every usable real file keeps its geometry, and a bright cube is found where it lies in space."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the customary name
import torch
from torch import nn

from stunet.errors import VolumeError
from stunet.inference.predictor import Predictor
from stunet.inference.sliding_window import WindowOptions
from stunet.io.volume import Volume, read_image
from stunet.types import Channel, Preprocessing

BRIGHT = 1e5  # above every value of the files, metal and MR signal included, in 16 bits or not
HEADER_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
    "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip


class Bright(nn.Module):
    """Class 1 where the first channel is above half of `level`, on any number of channels."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x[:, :1] - self.level / 2
        return torch.cat((-first, first), dim=1)


def predictor(volume: Volume, level: float) -> Predictor:
    channels = tuple(Channel(f"c{i}", "none") for i in range(len(volume.array)))
    z, y, x = (min(n, 96) for n in volume.shape_zyx)
    preprocessing = Preprocessing(volume.spacing_mm, (z, y, x), channels)
    labels = {"background": 0, "cube": 1}
    return Predictor(Bright(level), preprocessing, labels, window=WindowOptions(step=1.0))


def usable(shared_data: Path, folder: str) -> list[tuple[Path, Volume]]:
    found = []
    for path in sorted((shared_data / folder).rglob("*")):
        if path.is_file() and path.name.endswith((".nii", ".nii.gz", ".nrrd")):
            try:
                found.append((path, read_image(path)))
            except VolumeError:
                continue  # tests/integration/test_robust_files.py says which and why
    return found


def plant(stored_ijk: np.ndarray, level: float) -> tuple[np.ndarray, tuple[slice, ...]]:
    """A copy with a cube in it, off the centre along every axis so that a flip is noticed."""
    cube = tuple(slice(n // 8, n // 8 + max(1, n // 4)) for n in stored_ijk.shape[:3])
    planted = stored_ijk.astype(np.float32)
    planted[cube] = level
    return planted, cube


def save_planted(path: Path, folder: Path, level: float) -> tuple[Path, tuple[slice, ...]]:
    """The file with the cube in it and every other thing as it was."""
    if path.name.endswith(".nrrd"):
        image = sitk.ReadImage(str(path))
        planted, cube = plant(sitk.GetArrayFromImage(image).T, level)
        changed = sitk.GetImageFromArray(planted.T)
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(folder / "planted.nrrd"))
        return folder / "planted.nrrd", cube
    image = nib.load(path)
    planted, cube = plant(np.asanyarray(image.dataobj), level)
    header = image.header.copy()
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    target = folder / "planted.nii"
    with target.open("wb") as file:  # not through nibabel's image, which may repair geometry
        header["vox_offset"] = 0
        header.extensions.clear()
        header.write_to(file)
        ordered = planted.astype(header.get_data_dtype())
        file.write(ordered.tobytes(order="F"))
    return target, cube


def check_same_geometry(path: Path, out: Path, channels: int) -> None:
    if path.name.endswith(".nrrd"):
        source, written = sitk.ReadImage(str(path)), sitk.ReadImage(str(out))
        assert written.GetSize() == source.GetSize()
        assert written.GetOrigin() == source.GetOrigin()
        assert written.GetSpacing() == source.GetSpacing()
        assert written.GetDirection() == source.GetDirection()
        return
    source, written = nib.load(path), nib.load(out)
    assert type(written) is type(source)
    assert written.shape == (source.shape if channels == 1 else source.shape[:3])
    assert np.array_equal(written.affine, source.affine)
    for field in HEADER_FIELDS:
        assert np.array_equal(written.header[field], source.header[field]), field
    assert np.array_equal(written.header["pixdim"][:4], source.header["pixdim"][:4])


@pytest.mark.parametrize("folder", ["robust", "finetune"])
def test_geometry_is_returned_and_a_cube_stays_in_its_place(shared_data, tmp_path, folder):
    files = usable(shared_data, folder)
    assert len(files) == {"robust": 24, "finetune": 129}[folder]
    for path, volume in files:
        level = max(BRIGHT, 4 * float(np.abs(volume.array).max()))
        planted, cube = save_planted(path, tmp_path, level)
        suffix = ".nrrd" if path.name.endswith(".nrrd") else ".nii"
        out = tmp_path / f"labels{suffix}"
        predictor(volume, level).predict_file(planted, out)
        check_same_geometry(path, out, len(volume.array))
        found = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(out))).T
            if suffix == ".nrrd"
            else np.asarray(nib.load(out).dataobj)
        )
        expected = np.zeros(found.shape, bool)
        expected[cube] = True
        assert np.array_equal(found == 1, expected), path
