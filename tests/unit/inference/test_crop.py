import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stunet.inference.crop import MARGIN_MM, region_of


def test_nothing_found_is_no_region():
    assert region_of(np.zeros((4, 4, 4), bool), (8, 8, 8), (1, 1, 1), (2, 2, 2)) is None


def test_a_box_on_a_grid_half_as_fine_with_a_margin_in_mm():
    found = np.zeros((50, 40, 30), bool)
    found[20:23, 30, 10:12] = True
    region = region_of(found, (100, 80, 60), (4.0, 10.0, 20.0), (1, 1, 1))
    assert region == (slice(35, 51), slice(58, 64), slice(19, 25))
    assert MARGIN_MM == 20


@given(st.integers(1, 40), st.floats(0.4, 3), st.integers(1, 60), st.floats(0.5, 9), st.data())
def test_the_region_holds_what_was_found_and_a_patch_and_stays_inside(
    coarse, factor, patch, spacing, data
):
    fine = max(1, round(coarse * factor))
    found = np.zeros((coarse, 1, 1), bool)
    found[data.draw(st.lists(st.integers(0, coarse - 1), min_size=1))] = True
    region = region_of(found, (fine, 1, 1), (spacing, 1, 1), (patch, 1, 1))
    assert region is not None
    along = region[0]
    assert 0 <= along.start < along.stop <= fine
    assert along.stop - along.start >= min(patch, fine)
    hit = np.flatnonzero(found)
    assert along.start <= hit[0] * fine / coarse + 1e-9
    assert along.stop >= (hit[-1] + 1) * fine / coarse - 1e-9
