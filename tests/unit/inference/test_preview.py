import matplotlib.image
import numpy as np
import pytest

from stunet.inference.preview import draw_preview
from stunet.io.volume import volume_of_array
from stunet.planes import colours

LABELS = {"background": 0, **{f"structure_{value}": value for value in range(1, 31)}}


def picture(path, label_xyz, title="scan 1") -> np.ndarray:
    values = np.random.default_rng(0).normal(0, 30, label_xyz.shape).astype(np.float32)
    image = volume_of_array(values, np.diag([1.0, 1.0, 3.0, 1]))
    draw_preview(path, image, label_xyz.T, LABELS, title)
    return matplotlib.image.imread(path)[..., :3]


def near(rgb: np.ndarray, colour) -> int:
    return int((np.abs(rgb - colour).max(axis=-1) < 0.08).sum())


def test_each_structure_is_seen_in_its_colour(tmp_path):
    label = np.zeros((40, 50, 20), np.uint8)
    label[5:20, 5:40, 4:16] = 1
    label[22:36, 5:40, 4:16] = 2
    rgb = picture(tmp_path / "a.png", label)
    palette = colours([1, 2])
    assert rgb.shape[1] > 1000
    assert all(near(rgb, palette[value]) > 300 for value in (1, 2))
    bare = picture(tmp_path / "b.png", np.zeros_like(label))
    assert all(near(bare, palette[value]) < 20 for value in (1, 2))


@pytest.mark.parametrize("shape", [(30, 30, 1), (2, 60, 9)])
def test_thin_volumes_and_many_structures_are_drawn(tmp_path, shape):
    label = (np.arange(np.prod(shape)) % 31).astype(np.uint8).reshape(shape)
    assert picture(tmp_path / "thin.png", label).std() > 0
