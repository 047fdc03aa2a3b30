import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stunet.errors import ConfigError
from stunet.inference.sliding_window import gaussian, plan_windows, window_starts

sizes = st.tuples(*[st.integers(1, 40)] * 3)


@given(patch=sizes, extra=st.tuples(*[st.integers(0, 90)] * 3), step=st.floats(0.05, 1))
def test_windows_cover_the_volume_and_never_leave_it(patch, extra, step):
    shape = tuple(p + e for p, e in zip(patch, extra, strict=True))
    for starts, length, n in zip(window_starts(shape, patch, step), shape, patch, strict=True):
        covered = {i for a in starts for i in range(a, a + n)}
        assert covered == set(range(length))
        assert list(starts) == sorted(set(starts))


@pytest.mark.parametrize("step", [0.0, -0.5, 1.01, float("nan")])
def test_step_outside_its_range_is_refused(step):
    with pytest.raises(ConfigError, match="step"):
        window_starts((8, 8, 8), (4, 4, 4), step)


@given(shape=st.tuples(*[st.integers(4, 30)] * 3), patch=st.tuples(*[st.integers(1, 4)] * 3))
def test_windows_come_plane_by_plane_along_the_axis_of_the_smallest_slab(shape, patch):
    windows = plan_windows(torch.zeros((1, *shape)), patch, 0.5)
    axis = windows.order[0]
    slabs = [patch[a] * math.prod(shape) / shape[a] for a in range(3)]
    assert slabs[axis] == min(slabs)
    boxes = list(windows.boxes())
    assert len(set(map(str, boxes))) == len(boxes) == math.prod(map(len, windows.starts))
    firsts = [box[axis].start for box in boxes]
    assert firsts == sorted(firsts)


def test_the_weight_lines_are_the_sum_of_all_windows():
    windows = plan_windows(torch.zeros((1, 9, 5, 14)), (4, 5, 6), 0.4)
    total = torch.zeros((9, 5, 14), dtype=torch.float64)
    for box in windows.boxes():
        total[box] += gaussian((4, 5, 6)).double()
    z, y, x = windows.weight_lines()
    torch.testing.assert_close(z[:, None, None] * y[:, None] * x, total, rtol=1e-6, atol=0)
