"""With hand-made networks whose right answer is known at every voxel in space."""

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from stunet.errors import VolumeError
from stunet.inference.predictor import Predictor, WindowOptions
from stunet.io.volume import read_image
from stunet.types import Channel, Preprocessing

LABELS = {"background": 0, "ball": 1}
CENTRE_MM = (40.0, 30.0, -20.0)  # centre of the ball, mm RAS+


class Threshold(nn.Module):
    """Class 1 where the last channel is above `level`; keeps what it was shown."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        last = x[:, -1:]
        return torch.cat((self.level - last, last - self.level), dim=1)


def ball(affine: np.ndarray, shape_xyz: tuple[int, int, int], radius_mm: float) -> np.ndarray:
    """1000 inside a ball in world space, falling by 100 a mm: its edge at 500 is 5 mm further."""
    index = np.stack(np.meshgrid(*map(np.arange, shape_xyz), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    distance = np.linalg.norm(world - CENTRE_MM, axis=-1)
    return np.clip(1000 - 100 * (distance - radius_mm), 0, 1000).astype(np.float32)


AFFINES = {
    "RAS": np.array([[2, 0, 0, 0], [0, 2, 0, -5], [0, 0, 2, -60], [0, 0, 0, 1.0]]),
    "LPS": np.array([[-2, 0, 0, 78], [0, -2, 0, 73], [0, 0, 2, -60], [0, 0, 0, 1.0]]),
    "PIR": np.array([[0, 0, 2, 0], [-2, 0, 0, 73], [0, -2, 0, 18], [0, 0, 0, 1.0]]),
    "thick": np.array([[1.5, 0, 0, 0], [0, 1.5, 0, -5], [0, 0, 3.5, -60], [0, 0, 0, 1.0]]),
}
SHAPES = {"RAS": (40, 40, 40), "LPS": (40, 40, 40), "PIR": (40, 40, 40), "thick": (54, 54, 23)}


def predictor(level: float = 500.0, scheme: str = "none", channels: int = 1) -> Predictor:
    preprocessing = Preprocessing(
        spacing_mm=(2.0, 2.0, 2.0),
        patch_size=(24, 24, 24),
        channels=tuple(Channel(f"c{i}", scheme) for i in range(channels)),
    )
    return Predictor(Threshold(level), preprocessing, LABELS, window=WindowOptions(batch=4))


@pytest.mark.parametrize("orientation", AFFINES)
def test_labels_lie_where_the_object_is_in_space(orientation, tmp_path):
    affine, shape = AFFINES[orientation], SHAPES[orientation]
    nib.save(nib.Nifti1Image(ball(affine, shape, 12.0), affine), tmp_path / "ball.nii.gz")
    predictor().predict_file(tmp_path / "ball.nii.gz", tmp_path / "labels.nii.gz")
    written = nib.load(tmp_path / "labels.nii.gz")
    assert written.shape == shape
    assert np.array_equal(written.affine, affine)
    truth = ball(affine, shape, 12.0) > 500
    found = np.asarray(written.dataobj) == 1
    dice = 2 * (truth & found).sum() / (truth.sum() + found.sum())
    assert dice == 1 if orientation != "thick" else dice > 0.98


def test_the_network_sees_what_training_saw(tmp_path):
    values = np.random.default_rng(0).normal(50, 7, (30, 26, 24)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1])), tmp_path / "mr.nii.gz")
    ready = predictor(level=0.0, scheme="zscore")
    ready.predict_volume(read_image(tmp_path / "mr.nii.gz"))
    first_window = ready.model.seen[0][0, 0].numpy()
    expected = ((values - values.mean()) / values.std()).T[:24, :24, :24]
    np.testing.assert_allclose(first_window, expected, atol=1e-5)


def test_channels_keep_their_order(tmp_path):
    affine = AFFINES["RAS"]
    shape = SHAPES["RAS"]
    channels = np.stack([np.zeros(shape, np.float32), ball(affine, shape, 12.0)], axis=-1)
    nib.save(nib.Nifti1Image(channels, affine), tmp_path / "two.nii.gz")
    labels = predictor(channels=2).predict_volume(read_image(tmp_path / "two.nii.gz"))
    assert np.array_equal(labels.T == 1, channels[..., 1] > 500)


def test_a_volume_smaller_than_the_patch(tmp_path):
    affine = AFFINES["RAS"].copy()
    affine[:3, 3] = (35, 26, -24)
    values = ball(affine, (5, 7, 3), 0.0)
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "small.nii.gz")
    labels = predictor().predict_volume(read_image(tmp_path / "small.nii.gz"))
    assert labels.shape == (3, 7, 5)
    assert np.array_equal(labels.T == 1, values > 500)


def test_wrong_channel_count_is_one_line(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / "one.nii.gz")
    with pytest.raises(
        VolumeError, match=r"one\.nii\.gz: 1 channel.* takes 2 \(c0, c1\)"
    ) as caught:
        predictor(channels=2).predict_file(tmp_path / "one.nii.gz", tmp_path / "out.nii.gz")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.nii.gz").exists()
