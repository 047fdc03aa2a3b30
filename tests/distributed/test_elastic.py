"""A run that goes on with another number of ranks and ZeRO stage, and what each rank then holds."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stunet.engine.checkpoint_files import AVERAGE, OPTIMIZER, WEIGHTS, load_weights, read_state
from stunet.engine.model_state import model_state_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGES = (0, 1, 2, 3)
PARAMETERS = 442_882  # of the net whose state is measured


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, launch: Callable[[str, str, Path, int], str]
) -> Path:
    """All runs of this file, made by four launches: one rank, two, four, and one fresh one."""
    folder = tmp_path_factory.mktemp("runs")
    for task, ranks in (("one", 1), ("two", 2), ("four", 4), ("one_again", 1)):
        launch("elastic_worker.py", task, folder, ranks)
    return folder


def at_step(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:06d}"


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_six_steps_are_three_and_a_crash_and_three_to_the_bit(runs: Path) -> None:
    for file in (WEIGHTS, OPTIMIZER, AVERAGE):
        expected = (at_step(runs / "straight", 6) / file).read_bytes()
        assert (at_step(runs / "to_w1_s0", 6) / file).read_bytes() == expected, file
    states = [read_state(at_step(runs / name, 6)) for name in ("straight", "to_w1_s0")]
    assert states[0] == states[1]


@pytest.mark.parametrize("file", [WEIGHTS, AVERAGE])
@pytest.mark.parametrize(
    "name", ["to_w2_s2", "to_w4_s3", "chain_w2_s2", "chain_w4_s3", "chain_w1_s0"]
)
def test_another_number_of_ranks_and_stage_give_the_same_weights(
    runs: Path, name: str, file: str
) -> None:
    expected = load_weights(at_step(runs / "straight", 6), file)
    found = load_weights(at_step(runs / name, 6), file)
    begun = load_weights(at_step(runs / "straight", 3), file)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-6, rtol=0)
    moved = max(float((expected[key] - begun[key]).abs().max()) for key in expected)
    assert moved > 1e-3  # the tolerance is far below what three steps do


def test_the_average_is_that_of_the_weights_of_all_steps(runs: Path) -> None:
    steps = [load_weights(at_step(runs / "straight", step)) for step in range(1, 7)]
    for name, found in load_weights(at_step(runs / "straight", 6), AVERAGE).items():
        if name == "version":  # a buffer
            continue
        average = load_weights(at_step(runs / "straight", 1), AVERAGE)[name].double()
        for step in range(1, 6):
            kept = min(0.9, (1 + step) / (10 + step))
            average = kept * average + (1 - kept) * steps[step][name].double()
        torch.testing.assert_close(found.double(), average, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("stage", [1, 3])
def test_validation_uses_the_average_and_training_goes_on_with_the_weights(
    runs: Path, stage: int
) -> None:
    run = runs / f"validated_s{stage}"
    seen = json.loads((run / "seen.json").read_text())
    assert seen[0] == seen[1] and len(seen[0]) == 1
    # `after.pt` holds the weights after validation, the checkpoint those of the run without it.
    after = torch.load(run / "after.pt", weights_only=True)
    unvalidated = load_weights(at_step(runs / "straight", 6))
    for name, value in after.items():
        torch.testing.assert_close(value, unvalidated[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_loss_that_jumps_on_one_rank_is_skipped_by_all_and_recorded(
    runs: Path, stage: int
) -> None:
    run = runs / f"spike_s{stage}"
    assert [row["skipped_steps"] for row in rows(run)] == [0, 0, 0, 1, 1, 1]
    before, after = (load_weights(at_step(run, step)) for step in (3, 4))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_state(at_step(run, 6))["recent_losses"] == [
        row["loss"] for row in rows(run) if row["step"] in (5, 6)
    ]
    [row] = [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]
    assert row["step"] == 4 and row["reason"].startswith("the loss jumped to 1")
    samples = {sample["sample"]: sample["loss"] for sample in row["samples"]}
    assert list(samples) == [12, 13, 14, 15]  # in this step patch 14 is rank 1's first
    assert samples[14] > 50 > 2 > max(samples[key] for key in (12, 13, 15))


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("stage", STAGES)
def test_each_rank_holds_what_zero_promises(runs: Path, world: int, stage: int) -> None:
    ranks = json.loads((runs / f"bytes_{world}.json").read_text())
    assert len(ranks) == world
    sgd, adamw = (model_state_bytes(PARAMETERS, stage, world, name) for name in ("sgd", "adamw"))
    averaged = model_state_bytes(PARAMETERS, 3, world, "sgd", averaged=True)
    for rank in ranks:
        assert rank[f"sgd_{stage}"] == pytest.approx(sgd, rel=0.05)
        assert rank[f"adamw_{stage}"] == pytest.approx(adamw, rel=0.05)
        assert rank["average_3"] == pytest.approx(averaged, rel=0.05)
