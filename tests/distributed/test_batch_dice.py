"""Batch Dice over two ranks against one process on the joined batch."""

from collections.abc import Callable
from pathlib import Path


def test_two_ranks_have_the_gradient_of_the_joined_batch(
    tmp_path: Path, launch: Callable[[str, str, Path, int], str]
) -> None:
    launch("dice_worker.py", "batch_dice", tmp_path, 2)
