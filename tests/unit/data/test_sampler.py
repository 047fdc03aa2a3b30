from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from stunet.data.sampler import (
    Purpose,
    SamplerConfig,
    case_of,
    foreground_label,
    patch_start,
    step_samples,
    stream,
)
from stunet.errors import ConfigError

SEEDS = st.integers(0, 2**64 - 1)
SIDES = st.tuples(*[st.integers(1, 200)] * 3)
PATCHES = st.tuples(*[st.integers(1, 96)] * 3)


@given(seed=SEEDS, cases=st.integers(1, 700), epoch=st.integers(0, 10**9))
@settings(deadline=None)
def test_every_epoch_visits_every_case_once(seed: int, cases: int, epoch: int) -> None:
    visited = [case_of(seed, epoch * cases + k, cases) for k in range(cases)]
    assert sorted(visited) == list(range(cases))


def test_all_orders_of_few_cases_are_equally_likely() -> None:
    epochs = 6000
    orders = Counter(
        tuple(case_of(11, epoch * 4 + k, 4) for k in range(4)) for epoch in range(epochs)
    )
    assert chisquare([orders[order] for order in permutations(range(4))]).pvalue > 1e-3


def test_neighbours_in_a_large_epoch_are_unrelated() -> None:
    cases = 100
    steps = [
        (case_of(3, epoch * cases + 1, cases) - case_of(3, epoch * cases, cases)) % cases
        for epoch in range(3000)
    ]
    assert chisquare(np.bincount(steps, minlength=cases)[1:]).pvalue > 1e-3


@given(seed=SEEDS, sample=st.integers(0, 2**63), purpose=st.sampled_from(Purpose))
@settings(deadline=None)
def test_stream_is_philox_keyed_by_the_seed(seed: int, sample: int, purpose: Purpose) -> None:
    expected = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, purpose, sample]))
    assert stream(seed, sample, purpose).random(5).tolist() == expected.random(5).tolist()


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_ranks_share_each_step_without_gap_or_overlap(world: int) -> None:
    seen = [
        i for step in (6, 7) for rank in range(world) for i in step_samples(step, 8, rank, world)
    ]
    assert seen == list(range(48, 64))


@pytest.mark.parametrize("foreground", [0.0, 0.33, 1.0])
def test_share_of_foreground_patches_is_the_configured_one(foreground: float) -> None:
    labels, patches = (1, 4, 9), 6000
    drawn = Counter(
        foreground_label(5, sample, labels, SamplerConfig(foreground)) for sample in range(patches)
    )
    hits = patches - drawn[None]
    assert binomtest(hits, patches, foreground).pvalue > 1e-3
    if hits:
        assert chisquare([drawn[label] for label in labels]).pvalue > 1e-3


def test_a_case_without_labels_is_cut_anywhere() -> None:
    assert foreground_label(5, 0, (), SamplerConfig(foreground=1.0)) is None


@given(seed=SEEDS, sample=st.integers(0, 2**40), shape=SIDES, patch=PATCHES)
@settings(deadline=None)
def test_patch_lies_inside_or_around_the_volume(
    seed: int, sample: int, shape: tuple[int, int, int], patch: tuple[int, int, int]
) -> None:
    start = patch_start(seed, sample, shape, patch, around=None)
    for first, side, extent in zip(start, shape, patch, strict=True):
        before, after = first, side - first - extent
        if extent <= side:
            assert before >= 0 and after >= 0
        else:
            assert before < 1 and after < 1 and abs(before - after) <= 1


@given(seed=SEEDS, shape=SIDES, patch=PATCHES, data=st.data())
@settings(deadline=None)
def test_patch_is_centred_on_the_voxel_as_far_as_borders_allow(
    seed: int, shape: tuple[int, int, int], patch: tuple[int, int, int], data: st.DataObject
) -> None:
    voxel = [data.draw(st.integers(0, side - 1)) for side in shape]
    start = patch_start(seed, 0, shape, patch, around=np.array([voxel]))
    for first, side, extent, place in zip(start, shape, patch, voxel, strict=True):
        assert first <= place < first + extent
        if 0 <= place - extent // 2 <= side - extent:
            assert place - first == extent // 2


def test_every_position_is_equally_likely() -> None:
    starts = [patch_start(1, i, (40, 9, 9), (31, 9, 9), None)[0] for i in range(5000)]
    assert chisquare(np.bincount(starts, minlength=10)).pvalue > 1e-3


def test_impossible_share_of_foreground_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampler.foreground=1.5"):
        SamplerConfig(foreground=1.5)
