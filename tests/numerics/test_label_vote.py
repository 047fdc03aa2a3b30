"""The vote against the loop that it replaces: one-hot, trilinear resample per label, arg-max."""

import time

import numpy as np
import pytest
import torch

from stunet.transforms.label_vote import vote_labels
from stunet.transforms.spatial import Sampling, SpatialDraw, plan_sampling

PATCH = (30, 26, 34)
DRAWS = [
    SpatialDraw((21.0, -8.0, 13.0), (1.2, 1.2, 1.2)),
    SpatialDraw((-30.0, 30.0, -30.0), (0.7, 0.7, 0.7), (True, False, True)),
    SpatialDraw(scale=(1.4, 1.4, 1.4)),
]


def blobs(shape: tuple[int, ...], labels: int, dtype: type = np.uint8) -> np.ndarray:
    """A map of touching structures with many borders; the values have gaps."""
    rng = np.random.default_rng(labels)
    largest = min(np.iinfo(dtype).max, np.iinfo(np.int16).max)
    values = rng.permutation(largest + 1)[:labels].astype(dtype)
    coarse = rng.integers(0, labels, [side // 5 + 1 for side in shape])
    fine = values[coarse].repeat(5, 0).repeat(5, 1).repeat(5, 2)
    return fine[: shape[0], : shape[1], : shape[2]]


def planned(draw: SpatialDraw) -> Sampling:
    return plan_sampling(draw, (1.0, 1.5, 1.2), (0, 0, 0), PATCH)


def one_hot_loop(window: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Arg-max over ascending labels of each label's own trilinear interpolation, in float32."""
    z, y, x = np.ogrid[tuple(slice(side) for side in sampling.patch_size)]
    m, t = sampling.matrix, sampling.offset
    source = np.stack([m[a, 0] * z + m[a, 1] * y + t[a] + m[a, 2] * x for a in range(3)])
    floor = np.floor(source).astype(int)
    upper = (source - floor).astype(np.float32)
    values = np.unique(window)
    shares = np.zeros((len(values), *sampling.patch_size), np.float32)
    for row, value in enumerate(values):
        one_hot = (window == value).astype(np.float32)
        for k, j, i in np.ndindex(2, 2, 2):
            corner = one_hot[floor[0] + k, floor[1] + j, floor[2] + i]
            wz, wy, wx = (upper[a] if high else 1 - upper[a] for a, high in enumerate((k, j, i)))
            shares[row] += wz * wy * wx * corner
    return values[shares.argmax(0)]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("labels", "dtype"), [(2, np.uint8), (105, np.uint8), (200, np.uint16)])
def test_bit_identical_to_the_loop_over_labels(draw: SpatialDraw, labels: int, dtype: type) -> None:
    sampling = planned(draw)
    window = blobs(sampling.window_shape, labels, dtype)
    expected = one_hot_loop(window, sampling)
    assert len(np.unique(expected)) > labels / 3
    np.testing.assert_array_equal(vote_labels(window, sampling), expected)


@pytest.mark.parametrize("draw", DRAWS)
def test_agrees_with_grid_sample_wherever_the_vote_is_clear(draw: SpatialDraw) -> None:
    sampling = planned(draw)
    window = blobs(sampling.window_shape, 40)
    values = np.unique(window)
    grid = np.moveaxis(np.indices(PATCH), 0, -1) @ sampling.matrix.T + sampling.offset
    grid = grid * 2 / (np.array(window.shape) - 1) - 1
    one_hot = torch.from_numpy((window == values[:, None, None, None]).astype(np.float64))
    shares = torch.nn.functional.grid_sample(
        one_hot[None], torch.from_numpy(grid[None, ..., ::-1].copy()), align_corners=True
    )[0]
    first, second = shares.topk(2, dim=0).values
    clear = (first - second > 1e-5).numpy()
    assert clear.mean() > 0.999
    expected = values[shares.argmax(0).numpy()]
    np.testing.assert_array_equal(vote_labels(window, sampling)[clear], expected[clear])


def test_a_tie_goes_to_the_smaller_label() -> None:
    sampling = Sampling(np.eye(3), np.array([0.0, 0.0, 0.5]), (0, 0, 0), (2, 2, 4), (1, 1, 3))
    window = np.tile(np.array([9, 4, 7, 7], np.uint8), (2, 2, 1))
    np.testing.assert_array_equal(vote_labels(window, sampling), [[[4, 4, 7]]])


def test_two_corners_of_one_label_outvote_a_nearer_single_one() -> None:
    # weights 0.4 (label 5), 0.3 and 0.3 (label 8): nearest-neighbour would say 5
    matrix, offset = np.zeros((3, 3)), np.array([0.0, 0.3, 0.0])
    window = np.zeros((2, 2, 2), np.uint8)
    window[0] = [[5, 8], [8, 8]]
    offset[2] = 1 - 0.4 / 0.7
    sampling = Sampling(matrix, offset, (0, 0, 0), (2, 2, 2), (1, 1, 1))
    assert vote_labels(window, sampling).item() == 8


def test_cost_does_not_depend_on_the_number_of_labels() -> None:
    sampling = plan_sampling(DRAWS[0], (1.0, 1.0, 1.0), (0, 0, 0), (64, 64, 64))
    windows = [blobs(sampling.window_shape, labels) for labels in (3, 117)]
    seconds = [float("inf")] * 2
    for _ in range(5):
        for k, window in enumerate(windows):
            start = time.process_time()
            vote_labels(window, sampling)
            seconds[k] = min(seconds[k], time.process_time() - start)
    assert seconds[1] < 3 * seconds[0]  # a loop over labels would take 39 times as long
