import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from finetune.picture import draw_prediction, structure_centre
from stunet.io.volume import read_image
from stunet.planes import colours

LABELS = {"background": 0, "right top": 1, "left bottom": 2}


@pytest.fixture
def volume(tmp_path):
    values = np.random.default_rng(0).normal(0, 1, (30, 20, 24)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 2, 3, 1])), tmp_path / "image.nii.gz")
    return read_image(tmp_path / "image.nii.gz")


@pytest.fixture
def label() -> np.ndarray:
    label = np.zeros((24, 20, 30), np.uint8)  # z y x: superior and right have the higher index
    label[14:20, 6:14, 18:26] = 1
    label[4:10, 6:14, 4:12] = 2
    return label


def pixels_like(picture: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    """Rows and columns (n, 2) of pixels whose hue is the colour's, overlaid or not."""
    direction = np.array(colour) / np.linalg.norm(colour)
    rgb = picture[..., :3] - picture[..., :3].min(axis=-1, keepdims=True)
    pure = direction - direction.min()
    norm = np.linalg.norm(rgb, axis=-1)
    cosine = rgb @ (pure / np.linalg.norm(pure)) / np.maximum(norm, 1e-6)
    return np.argwhere((norm > 0.15) & (cosine > 0.995))


def test_patient_right_is_on_the_left_and_superior_is_up(volume, label, tmp_path):
    draw_prediction(tmp_path / "out.png", volume, label, label, LABELS, "a case")
    picture = imread(tmp_path / "out.png")
    palette = colours([1, 2])
    right_top, left_bottom = (pixels_like(picture, palette[value]) for value in (1, 2))
    assert len(right_top) > 5000 and len(left_bottom) > 5000
    coronal = picture.shape[0] * 0.3, picture.shape[0] * 0.68
    tops, bottoms = (
        p[(p[:, 0] > coronal[0]) & (p[:, 0] < coronal[1])] for p in (right_top, left_bottom)
    )
    # The legend also holds each colour, far on the right, but a hundred times fewer pixels.
    assert np.median(tops[:, 0]) < np.median(bottoms[:, 0])
    assert right_top[:, 1].min() < left_bottom[:, 1].min()


def test_a_prediction_of_nothing_and_a_truth_of_nothing_are_drawn(volume, label, tmp_path):
    draw_prediction(tmp_path / "a.png", volume, label, 0 * label, LABELS, "missed")
    draw_prediction(tmp_path / "b.png", volume, 0 * label, label, LABELS, "invented")
    draw_prediction(tmp_path / "c.png", volume, 0 * label, 0 * label, LABELS, "empty")
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["a.png", "b.png", "c.png"]


def test_every_structure_counts_alike_for_the_centre():
    label = np.zeros((40, 10, 10), np.uint8)
    label[0:10, :, :] = 1  # huge, nowhere better seen than anywhere
    label[9:20, 4:6, 4:6] = 2
    label[9, 0:2, 0:2] = 3
    z, _, _ = structure_centre(label)
    assert z == 9
