"""Plans from made-up fingerprints: what is planned, what can be set, what is refused."""

import re
from dataclasses import replace
from math import prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.fingerprint import CaseFingerprint, Fingerprint, Intensities
from data_tools.plan import Plan, PlanConfig, describe, plan
from data_tools.plan_patch import fit_patch, patch_divisor, plan_strides
from stunet.config import load_config
from stunet.errors import ConfigError
from stunet.types import Channel, Preprocessing, Size3, Spacing

INSIDE = Intensities(mean=60.0, std=90.0, p0_5=-150.0, p99_5=350.0, min=-1000.0, max=3000.0)
ALWAYS = ((2, 2, 2),) * 5


def case(
    shape: Size3, spacing: Spacing = (1.5, 1.5, 1.5), lowest: float = -1024.0
) -> CaseFingerprint:
    return CaseFingerprint("a", shape, spacing, (0, 1, 2, 5), (lowest,), (INSIDE,))


def seen(*cases: CaseFingerprint, name: str = "CT") -> Fingerprint:
    return Fingerprint((name,), (INSIDE,), cases)


TOTALSEGMENTATOR = seen(case((228, 228, 240)))


def test_totalsegmentator_gives_the_published_patch() -> None:
    planned = plan(TOTALSEGMENTATOR, PlanConfig())
    assert planned.preprocessing.spacing_mm == (1.5, 1.5, 1.5)
    assert planned.preprocessing.patch_size == (128, 128, 128)
    assert planned.strides == ALWAYS
    (channel,) = planned.preprocessing.channels
    assert (channel.scheme, channel.clip) == ("ct", (-150.0, 350.0))
    assert (channel.mean, channel.std) == (60.0, 90.0)


def test_the_plan_of_a_bundle_is_kept_where_no_value_is_set() -> None:
    ours = Channel("ct", "ct", (-900.0, 1200.0), 100.0, 300.0)
    source = Plan(Preprocessing((4.0, 4.0, 4.0), (32, 64, 64), (ours,)), ALWAYS)
    two = Fingerprint(("CT", "PET"), (INSIDE, INSIDE), TOTALSEGMENTATOR.cases)
    kept = plan(two, PlanConfig(), source)
    assert kept.strides == ALWAYS
    assert kept.preprocessing == Preprocessing(
        (4.0, 4.0, 4.0), (32, 64, 64), (replace(ours, name="CT"), Channel("PET", "zscore"))
    )
    other = plan(two, PlanConfig(spacing_mm=(2.0, 2.0, 2.0), scheme="zscore"), source)
    assert other.preprocessing.spacing_mm == (2.0, 2.0, 2.0)
    assert [channel.scheme for channel in other.preprocessing.channels] == ["zscore", "zscore"]


def test_spacing_is_the_median_without_float32_dust() -> None:
    fingerprint = seen(
        case((100, 100, 100), (3.0, 0.8, 0.8)),
        case((100, 100, 100), (2.5, 0.9765625, 0.9765625)),
        case((100, 100, 100), (2.0, 1.5000000596046448, 1.5000000596046448)),
    )
    assert plan(fingerprint, PlanConfig()).preprocessing.spacing_mm == (2.5, 0.976562, 0.976562)


def test_thick_slices_get_a_finer_spacing_than_the_median() -> None:
    cases = [case((12, 256, 256), (thick, 1.5, 1.5)) for thick in (5.0, 10.0, 10.0, 10.0, 10.0)]
    assert plan(seen(*cases), PlanConfig()).preprocessing.spacing_mm == (7.0, 1.5, 1.5)
    many_slices = [replace(entry, shape_zyx=(90, 256, 256)) for entry in cases]
    assert plan(seen(*many_slices), PlanConfig()).preprocessing.spacing_mm == (10.0, 1.5, 1.5)


@pytest.mark.parametrize(
    ("name", "lowest", "scheme"),
    [
        ("CT", 0.0, "ct"),
        ("ct", 0.0, "ct"),
        ("T1", -1024.0, "zscore"),
        ("noNorm", 0.0, "none"),
        ("rescale_to_0_1", 0.0, "rescale"),
        ("image", -1000.0, "ct"),
        ("image", -47.0, "zscore"),
    ],
)
def test_scheme_from_the_channel(name: str, lowest: float, scheme: str) -> None:
    fingerprint = seen(case((64, 64, 64), lowest=lowest), name=name)
    (channel,) = plan(fingerprint, PlanConfig()).preprocessing.channels
    assert channel.scheme == scheme
    assert (channel.clip is None) == (scheme != "ct")


def test_every_value_can_be_set() -> None:
    strides = ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 1))
    config = PlanConfig((3.0, 1.0, 1.0), (48, 160, 160), strides, "zscore")
    planned = plan(TOTALSEGMENTATOR, config)
    assert planned.preprocessing.spacing_mm == (3.0, 1.0, 1.0)
    assert planned.preprocessing.patch_size == (48, 160, 160)
    assert planned.strides == strides
    assert planned.preprocessing.channels[0].scheme == "zscore"


def test_set_patch_plans_strides_and_set_strides_plan_the_patch() -> None:
    planned = plan(TOTALSEGMENTATOR, PlanConfig(patch_size=(64, 96, 128)))
    assert planned.strides == (*((2, 2, 2),) * 4, (1, 1, 2))
    planned = plan(TOTALSEGMENTATOR, PlanConfig(strides=((1, 1, 1),) * 5, patch_voxels=60**3))
    assert planned.preprocessing.patch_size == (60, 60, 60)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing_mm (1.0, 0.0, 1.0): give three values above"),
        ({"patch_size": (64, 64)}, "patch_size (64, 64): give three values above zero"),
        ({"patch_size": (64, 100, 64)}, "100 along y is not a multiple of 16"),
        ({"strides": ((2, 2, 2),) * 4}, "give 5 steps of three values"),
        ({"strides": ((2, 2, 0),) * 5}, "give 5 steps of three values"),
        ({"scheme": "minmax"}, "scheme 'minmax': unknown; use one of ct, zscore, rescale, none"),
        ({"strides": ALWAYS, "patch_size": (64, 64, 48)}, "48 along x is not a multiple of 32"),
        ({"strides": ALWAYS, "patch_voxels": 1000}, "patch_voxels=1000: the strides need at least"),
    ],
)
def test_impossible_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan(TOTALSEGMENTATOR, PlanConfig(**values))


def test_settings_come_from_a_recipe() -> None:
    overrides = ["spacing_mm=[3,1.5,1.5]", "strides=[[2,2,2],[2,2,2],[2,2,2],[2,2,2],[1,1,2]]"]
    config = load_config(PlanConfig, None, overrides)
    assert config.spacing_mm == (3.0, 1.5, 1.5)
    assert plan(TOTALSEGMENTATOR, config).strides == (*((2, 2, 2),) * 4, (1, 1, 2))


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(*[st.integers(1, 900)] * 3),
    st.tuples(*[st.floats(0.3, 9.0)] * 3),
    st.integers(12**3, 200**3),
)
def test_any_patch_fits_the_budget_the_strides_and_the_case(
    shape: Size3, spacing: Spacing, budget: int
) -> None:
    patch, strides = fit_patch(shape, spacing, budget, None)
    assert len(strides) == 5
    assert 1 <= prod(patch) <= budget
    for edge, divisor, whole in zip(patch, patch_divisor(strides), shape, strict=True):
        assert edge % divisor == 0
        assert edge < whole + divisor
        assert divisor == 1 or edge // divisor >= 4


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.integers(1, 300)] * 3), st.tuples(*[st.floats(0.3, 9.0)] * 3))
def test_strides_wait_for_coarse_axes(patch: Size3, spacing: Spacing) -> None:
    edges, current = list(patch), list(spacing)
    for step in plan_strides(patch, spacing):
        halvable = [current[axis] for axis in range(3) if edges[axis] >= 8]
        for axis in range(3):
            wanted = edges[axis] >= 8 and current[axis] < 2 * min(halvable)
            assert step[axis] == (2 if wanted else 1)
            edges[axis] = -(-edges[axis] // step[axis])
            current[axis] *= step[axis]


def test_description_names_what_matters() -> None:
    text = describe(plan(TOTALSEGMENTATOR, PlanConfig()), TOTALSEGMENTATOR)
    for part in (
        "1 cases, median 228 x 228 x 240 voxels of 1.5 x 1.5 x 1.5 mm",
        "label values 0-2, 5",
        "patch 128 x 128 x 128 = 2.10 M voxels, 192 x 192 x 192 mm",
        "channel CT: ct, clip -150 to 350, mean 60, std 90",
    ):
        assert part in text
