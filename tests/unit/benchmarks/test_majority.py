import numpy as np

from benchmarks.ours.labels import majority_disagreements
from stunet.transforms.resample_label import resample_label


def test_counts_only_where_a_label_holds_the_majority() -> None:
    # Along x: 0 0 2 2, doubled. Voxel 3 lies a quarter from the second 0, voxel 4 a quarter from
    # the first 2: every voxel has a majority.
    source = np.zeros((1, 1, 4), np.uint8)
    source[..., 2:] = 2
    right = np.array([0, 0, 0, 0, 2, 2, 2, 2], np.uint8).reshape(1, 1, 8)
    wrong = right.copy()
    wrong[..., 3] = 2
    assert majority_disagreements(source, right, right).startswith("0 of 8 majority voxels differ")
    assert majority_disagreements(source, right, wrong).startswith("1 of 8 majority voxels differ")
    assert majority_disagreements(source, wrong, right).startswith("1 of 8 majority voxels differ")


def test_a_tie_is_no_majority() -> None:
    # Halved: the middle voxel of three lies exactly between a 1 and a 2.
    source = np.array([1, 1, 1, 2, 2, 2], np.uint8).reshape(1, 1, 6)
    one = np.array([1, 1, 2], np.uint8).reshape(1, 1, 3)
    other = np.array([1, 2, 2], np.uint8).reshape(1, 1, 3)
    found = majority_disagreements(source, one, other)
    assert found.startswith("0 of 2 majority voxels differ; 66.67% of voxels have a majority")


def test_agrees_with_the_kernel_on_random_labels() -> None:
    source = np.random.default_rng(0).integers(0, 4, (6, 7, 8), dtype=np.uint8)
    fine = resample_label(source, (9, 10, 13))
    flipped = np.where(fine == 0, 3, fine).astype(np.uint8)
    assert majority_disagreements(source, fine, fine).startswith("0 of ")
    assert not majority_disagreements(source, fine, flipped).startswith("0 of ")
