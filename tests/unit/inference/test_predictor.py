"""With hand-made networks whose right answer is known at every voxel in space."""

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from stunet.errors import ConfigError, VolumeError
from stunet.inference.predictor import Predictor, Wish
from stunet.inference.sliding_window import WindowOptions
from stunet.io.volume import combine_channels, read_image, read_label_table, volume_of_array
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


@pytest.mark.parametrize("orientation", AFFINES)
def test_an_array_is_segmented_like_its_file(orientation, tmp_path):
    affine, shape = AFFINES[orientation], SHAPES[orientation]
    values = ball(affine, shape, 12.0)
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "ball.nii.gz")
    predictor().predict_file(tmp_path / "ball.nii.gz", tmp_path / "labels.nii.gz")
    labels = predictor().predict_array(values, affine)
    assert labels.shape == shape
    assert np.array_equal(labels, np.asarray(nib.load(tmp_path / "labels.nii.gz").dataobj))
    assert np.array_equal(values, ball(affine, shape, 12.0))  # the caller's array is left alone


@pytest.mark.parametrize(
    ("array", "affine", "words"),
    [
        (np.zeros((4, 4)), np.eye(4), "give (X, Y, Z)"),
        (np.zeros((4, 4, 4)), np.eye(3), "give (X, Y, Z)"),
        (np.zeros((4, 4, 4)), np.diag([1.0, 0, 1, 1]), "has a zero"),
        (np.full((4, 4, 4), np.nan), np.eye(4), "64 NaN"),
        (np.zeros((4, 4, 4), complex), np.eye(4), "complex"),
    ],
)
def test_an_array_that_cannot_be_used_is_one_line(array, affine, words):
    with pytest.raises(VolumeError) as caught:
        predictor().predict_array(array, affine)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_per_channel(tmp_path):
    affine, shape = AFFINES["RAS"], SHAPES["RAS"]
    paths = [tmp_path / "case_0000.nii.gz", tmp_path / "case_0001.nii.gz"]
    values = [np.zeros(shape, np.float32), ball(affine, shape, 12.0)]
    for path, channel in zip(paths, values, strict=True):
        nib.save(nib.Nifti1Image(channel, affine), path)
    predictor(channels=2).predict_file(paths, tmp_path / "out.nii.gz")
    written = np.asarray(nib.load(tmp_path / "out.nii.gz").dataobj)
    assert np.array_equal(written == 1, values[1] > 500)
    both = combine_channels([read_image(path) for path in paths])
    assert np.array_equal(predictor(channels=2).predict_volume(both).T, written)


class Levels(nn.Module):
    """Class k where the image is about 100 k, with its last layer apart: 2 features, 4 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv3d(2, 4, 1).requires_grad_(False)
        level = torch.tensor([0.0, 100, 200, 300])
        self.head.weight.copy_(torch.stack((2 * level, -(level**2)), 1)[..., None, None, None])
        self.head.bias.zero_()
        self.windows = 0

    def features(self, x: torch.Tensor) -> torch.Tensor:
        self.windows += len(x)
        return torch.cat((x, torch.ones_like(x)), dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


LEVELS = {"background": 0, "liver": 1, "left kidney": 2, "spleen": 3}


def levels() -> Predictor:
    preprocessing = Preprocessing((2.0, 2.0, 2.0), (16, 16, 16), (Channel("c", "none"),))
    return Predictor(Levels(), preprocessing, LEVELS)


def blocks() -> tuple[np.ndarray, np.ndarray]:
    """Three blocks of 100, 200 and 300 in a volume of (48, 64, 80), spacing 2 mm."""
    values = np.zeros((48, 64, 80), np.float32)
    values[4:12, 8:20, 10:18] = 100
    values[30:38, 40:50, 60:70] = 200
    values[20:24, 4:10, 70:79] = 300
    return values, np.diag([2.0, 2, 2, 1])


def test_only_the_wanted_classes_are_kept_under_their_own_values(tmp_path):
    values, affine = blocks()
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "scan.nii.gz")
    wish = Wish(classes=("spleen", "liver"))
    levels().predict_file(tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz", wish)
    found = np.asarray(nib.load(tmp_path / "out.nii.gz").dataobj)
    assert np.array_equal(found, np.where(values == 200, 0, values / 100))
    assert read_label_table(tmp_path / "out.nii.gz") == {"background": 0, "liver": 1, "spleen": 3}


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_coarse_look_finds_the_same_for_fewer_windows(factor):
    values, affine = blocks()
    whole = levels()
    expected = whole.predict_array(values, affine, Wish(("left kidney",)))
    cropped = levels()
    found = cropped.predict_array(values, affine, Wish(("left kidney",), coarse=factor))
    assert np.array_equal(found, expected)
    assert np.array_equal(found == 2, values == 200)
    assert cropped.model.windows < whole.model.windows / 2


def test_what_the_coarse_look_misses_is_not_found():
    values, affine = blocks()
    values[values == 300] = 0
    found = levels().predict_array(values, affine, Wish(("spleen",), coarse=2.0))
    assert found.shape == values.shape and not found.any()


def test_a_wish_that_cannot_be_met_is_told():
    values, affine = blocks()
    with pytest.raises(ConfigError, match=r"'livr'.*liver, left kidney, spleen"):
        levels().predict_array(values, affine, Wish(("livr",)))
    with pytest.raises(ConfigError, match=r"coarse 0\.5"):
        levels().predict_array(values, affine, Wish(coarse=0.5))


def test_every_class_is_found_through_the_head_that_is_apart():
    values, affine = blocks()
    assert np.array_equal(levels().predict_array(values, affine), values / 100)


def test_an_array_volume_is_that_of_its_file(tmp_path):
    values, _ = blocks()
    nib.save(nib.Nifti1Image(values, AFFINES["PIR"]), tmp_path / "scan.nii.gz")
    read, given = read_image(tmp_path / "scan.nii.gz"), volume_of_array(values, AFFINES["PIR"])
    assert np.array_equal(read.array, given.array)
    assert np.array_equal(read.affine, given.affine)
    assert read.source.shape == given.source.shape
    assert read.source.orientation == given.source.orientation
