import numpy as np
import pytest

from stunet.errors import DataError
from stunet.metrics.dice import (
    ClassCounts,
    count_classes,
    count_regions,
    dice_per_class,
    dice_where_present,
    summarise_dice,
)

PREDICTION = np.array([[0, 1, 1, 2], [0, 0, 1, 3]], dtype=np.uint8)
REFERENCE = np.array([[0, 1, 0, 2], [1, 0, 1, 0]], dtype=np.uint8)


def equal(one: ClassCounts, other: ClassCounts) -> bool:
    names = ("tp", "fp", "fn", "n_pred", "n_ref")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def test_counts_by_hand() -> None:
    counts = count_classes(PREDICTION, REFERENCE, classes=5)
    assert counts.tp.tolist() == [2, 2, 1, 0, 0]
    assert counts.fp.tolist() == [1, 1, 0, 1, 0]
    assert counts.fn.tolist() == [2, 1, 0, 0, 0]
    assert counts.n_ref.tolist() == [4, 3, 1, 0, 0]
    assert counts.n_pred.tolist() == [3, 3, 1, 1, 0]


def test_counts_of_a_scan_against_a_loop_over_classes() -> None:
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 12, (40, 50, 61), dtype=np.uint8)
    prediction = np.where(rng.random(reference.shape) < 0.8, reference, 3)
    reference[:5] = 255
    counts = count_classes(prediction, reference, classes=12, ignore_label=255)
    valid = reference != 255
    for k in range(12):
        p, r = (prediction == k) & valid, (reference == k) & valid
        assert counts.tp[k] == np.sum(p & r)
        assert counts.fp[k] == np.sum(p & ~r)
        assert counts.fn[k] == np.sum(r & ~p)


def test_counts_of_overlapping_regions_against_a_loop_over_masks() -> None:
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 12, (40, 50, 61), dtype=np.uint8)
    prediction = np.where(rng.random(reference.shape) < 0.8, reference, 3)
    reference[:5] = 255
    regions = ((1, 2, 3), (2, 3), (3, 11), (7,))
    counts = count_regions(prediction, reference, regions, classes=12, ignore_label=255)
    valid = reference != 255
    for k, values in enumerate(regions):
        p, r = np.isin(prediction, values) & valid, np.isin(reference, values) & valid
        assert counts.tp[k] == np.sum(p & r)
        assert counts.fp[k] == np.sum(p & ~r)
        assert counts.fn[k] == np.sum(r & ~p)


def test_counts_of_parts_add_up() -> None:
    parts = [count_classes(p, r, 5) for p, r in zip(PREDICTION, REFERENCE, strict=True)]
    assert equal(parts[0] + parts[1], count_classes(PREDICTION, REFERENCE, 5))


def test_signed_wide_swapped_and_strided_arrays_count_alike() -> None:
    expected = count_classes(PREDICTION, REFERENCE, 5)
    wide = count_classes(
        np.asfortranarray(PREDICTION.astype(">i2")), REFERENCE.astype(np.uint64), 5
    )
    assert equal(wide, expected)


def test_both_conventions_for_absent_classes() -> None:
    counts = count_classes(PREDICTION, REFERENCE, classes=5)
    nnunet = [4 / 7, 4 / 6, 1.0, 0.0, np.nan]  # class 3: predicted but absent from the reference
    present = [4 / 7, 4 / 6, 1.0, np.nan, np.nan]
    np.testing.assert_allclose(dice_per_class(counts), nnunet)
    np.testing.assert_allclose(dice_where_present(counts), present)
    rewarded = [4 / 7, 4 / 6, 1.0, 0.0, 1.0]
    np.testing.assert_allclose(dice_per_class(counts, absent_in_both=1.0), rewarded)


def test_missed_class_scores_zero_in_both() -> None:
    counts = count_classes(np.zeros((2, 2), np.uint8), np.full((2, 2), 1, np.uint8), classes=2)
    assert dice_per_class(counts).tolist() == [0, 0]
    assert dice_where_present(counts)[1] == 0


def test_summary_averages_cases_then_classes() -> None:
    nan = np.nan
    summary = summarise_dice(
        np.array([[0.9, 0.5, nan, nan], [1.0, 0.7, nan, 0.2], [0.8, nan, nan, 0.4]])
    )
    np.testing.assert_allclose(summary.per_class, [0.9, 0.6, nan, 0.3])
    assert summary.scored_cases.tolist() == [3, 2, 0, 2]
    assert summary.foreground_mean == pytest.approx(0.45)


def test_summary_of_regions_has_no_background() -> None:
    summary = summarise_dice(np.array([[0.9, 0.5, np.nan], [0.7, 0.7, np.nan]]), background=None)
    np.testing.assert_allclose(summary.per_class, [0.8, 0.6, np.nan])
    assert summary.foreground_mean == pytest.approx(0.7)


def test_summary_of_nothing_is_nan_without_a_warning() -> None:
    summary = summarise_dice(np.full((2, 3), np.nan))
    assert np.isnan(summary.per_class).all()
    assert np.isnan(summary.foreground_mean)
    assert np.isnan(summarise_dice(np.empty((0, 3))).foreground_mean)


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        ([0, 1, 2], [0, 1], r"prediction \(3,\) and reference \(2,\) differ in shape"),
        ([0, 7], [0, 1], "prediction holds label 7 but there are 3 classes"),
        ([0, 1], [0, -1], "reference holds label -1 but there are 3 classes"),
    ],
)
def test_bad_labels_are_one_line(prediction: list, reference: list, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        count_classes(np.array(prediction), np.array(reference), classes=3)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=message):
        count_regions(np.array(prediction), np.array(reference), [(1, 2)], classes=3)
