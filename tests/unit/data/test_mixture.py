"""Shares of data sets in the stream: exact, and each data set's own visits counted without gaps."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from stunet.data.mixture import MixedSource, dataset_of, pattern_counts
from stunet.data.patches import PatchSource
from stunet.data.sampler import SamplerConfig, case_of
from stunet.errors import ConfigError
from stunet.io.store import Store
from stunet.transforms.augment import AugmentConfig

PATCH = (16, 16, 16)
COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@given(seed=st.integers(0, 2**64 - 1), counts=COUNTS, block=st.integers(0, 10**9))
@settings(deadline=None)
def test_own_visits_of_each_data_set_are_counted_without_gap(
    seed: int, counts: list[int], block: int
) -> None:
    length = sum(counts)
    drawn = [dataset_of(seed, block * length + k, counts) for k in range(length)]
    for dataset, count in enumerate(counts):
        own = sorted(visit for d, visit in drawn if d == dataset)
        assert own == list(range(block * count, (block + 1) * count))


@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=5))
@settings(deadline=None)
def test_shares_are_the_weights_to_a_thousandth(weights: list[float]) -> None:
    try:
        counts = pattern_counts(weights)
    except ConfigError:
        assert min(weights) / sum(weights) < 1e-3
        return
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count / sum(counts) - weight / sum(weights)) <= 1e-3


def test_the_order_within_a_pattern_is_random() -> None:
    first = Counter(dataset_of(5, block * 4, (2, 1, 1))[0] for block in range(4000))
    assert chisquare([first[d] for d in range(3)], [2000, 1000, 1000]).pvalue > 1e-3


@pytest.mark.parametrize("weights", [(1, 0), (1, -1), (1, float("nan")), (1, float("inf"))])
def test_impossible_weights_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"weight .* is not a number above 0"):
        pattern_counts(weights)


def test_a_weight_that_would_get_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"weight 1 is below a thousandth of the sum 5001"):
        pattern_counts((5000, 1))


def part(store: Store, cases: tuple[int, ...], sampler: SamplerConfig, dataset: int) -> PatchSource:
    return PatchSource(store, cases, PATCH, 3, sampler, AugmentConfig(noise_p=0.5), dataset)


@pytest.fixture
def mix(store: Store) -> Callable[[SamplerConfig], MixedSource]:
    def build(sampler: SamplerConfig) -> MixedSource:
        parts = [part(store, (0, 1), sampler, 0), part(store, (2,), sampler, 1)]
        return MixedSource(parts, (1, 3), 3, sampler)

    return build


def test_patches_are_shared_out_by_weight_and_every_case_visited_evenly(
    mix: Callable[[SamplerConfig], MixedSource],
) -> None:
    source = mix(SamplerConfig())
    assert Counter(source.draw(sample).case for sample in range(80)) == {0: 10, 1: 10, 2: 60}


def test_with_several_patches_per_volume_the_mixture_is_one_of_visits(
    mix: Callable[[SamplerConfig], MixedSource],
) -> None:
    sampler = SamplerConfig(patches_per_volume=5, volumes_at_once=4)
    source = mix(sampler)
    drawn = Counter(source.draw(sample).case for sample in range(20, 20 + 800))
    assert abs(drawn[2] - 600) <= 5 * 4 and abs(drawn[0] - 100) <= 5 * 4


def test_a_mixture_of_one_is_the_data_set_itself(store: Store) -> None:
    for sampler in (SamplerConfig(), SamplerConfig(patches_per_volume=3, volumes_at_once=4)):
        alone = part(store, (0, 1, 2), sampler, 0)
        mixed = MixedSource([alone], (7,), 3, sampler)
        assert [mixed.draw(i) for i in range(30)] == [alone.draw(i) for i in range(30)]
        assert mixed.locate(4) == alone.locate(4)


def test_a_patch_depends_on_seed_and_number_alone(
    mix: Callable[[SamplerConfig], MixedSource],
) -> None:
    source = mix(SamplerConfig())
    again = pickle.loads(pickle.dumps(source))
    for sample in (7, 3, 5):
        assert torch.equal(again[sample].image_cdhw, source[sample].image_cdhw)
        assert again.describe(sample) == source.describe(sample)


def test_equal_data_sets_have_orders_of_their_own() -> None:
    orders = [[case_of(3, visit, 50, dataset) for visit in range(50)] for dataset in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
