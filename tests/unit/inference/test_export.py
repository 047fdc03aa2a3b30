"""Against scipy's linear zoom of every class in double precision."""

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom

from stunet.inference.export import labels_on_grid


def dense_reference(logits: np.ndarray, shape_to) -> np.ndarray:
    factor = [to / n for to, n in zip(shape_to, logits.shape[1:], strict=True)]
    full = [zoom(k.astype(float), factor, order=1, mode="nearest", grid_mode=True) for k in logits]
    return np.stack(full)


def export(logits_kzyx: torch.Tensor, shape_to, order=(0, 1, 2)) -> np.ndarray:
    z, y, x = logits_kzyx.shape[1:]
    turned = logits_kzyx.permute(0, *(1 + axis for axis in order))
    return labels_on_grid(turned.unbind(1), order, (z, y, x), shape_to)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("shape_to", [(7, 9, 8), (13, 9, 21), (5, 4, 17), (1, 1, 1)])
def test_equals_dense_linear_resampling_and_argmax(shape_to, order):
    logits = np.random.default_rng(0).normal(size=(5, 7, 9, 8)).astype(np.float32)
    dense = dense_reference(logits, shape_to)
    labels = export(torch.from_numpy(logits), shape_to, order)
    assert labels.shape == shape_to and labels.dtype == np.uint8
    chosen = np.take_along_axis(dense, labels[None].astype(int), axis=0)[0]
    # Where two classes tie within rounding either may win; nowhere may a clearly smaller one.
    np.testing.assert_allclose(chosen, dense.max(axis=0), atol=1e-5)
    assert (labels == dense.argmax(axis=0)).mean() > 0.999


def test_many_classes_take_two_bytes_and_ties_go_to_the_smaller_class():
    logits = torch.zeros((300, 2, 2, 2))
    logits[[270, 280], 0] = 1.0
    labels = export(logits, (2, 2, 2))
    assert labels.dtype == np.uint16
    assert (labels[0] == 270).all() and (labels[1] == 0).all()


def test_one_plane_is_enough():
    logits = torch.zeros((3, 1, 4, 5))
    logits[0, :, :2] = logits[2, :, 2:] = 1.0
    labels = export(logits, (3, 8, 5))
    assert (labels[:, :4] == 0).all() and (labels[:, 4:] == 2).all()
