"""ZeRO 0 to 3 on one and two ranks against plain torch, and runs continued across all of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stunet.engine.checkpoint_files import OPTIMIZER, WEIGHTS, load_weights, read_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, launch: Callable[[str, str, Path, int], str]
) -> Path:
    """All runs of this file, made by three launches: two ranks, one, and two fresh ones."""
    folder = tmp_path_factory.mktemp("runs")
    said = launch("worker.py", "first_launch", folder, 2)
    said += launch("worker.py", "single_process", folder, 1)
    said += launch("worker.py", "second_launch", folder, 2)
    (folder / "said.txt").write_text(said)
    return folder


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def column(run: Path, name: str) -> list[float]:
    return [row[name] for row in rows(run)]


def at_step(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:06d}"


def plain(runs: Path, name: str) -> dict[str, list[float]]:
    return json.loads((runs / f"plain_{name}.json").read_text())


@pytest.mark.parametrize(
    "run", ["w1_s0", *(f"w2_s{stage}{micro}" for stage in STAGES for micro in ("", "_whole"))]
)
def test_sgd_equals_plain_torch(runs: Path, run: str) -> None:
    expected = plain(runs, "sgd")
    assert column(runs / run, "loss") == pytest.approx(expected["losses"], abs=1e-5)
    assert column(runs / run, "grad_norm") == pytest.approx(expected["norms"], rel=1e-4)
    weights = load_weights(at_step(runs / run, 10))
    reference = torch.load(runs / "plain_sgd.pt", weights_only=True)
    assert weights.keys() == reference.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, reference[name], atol=1e-5, rtol=0)
    # The comparison means something: training changed the loss far more than the tolerance.
    assert expected["losses"][0] - expected["losses"][-1] > 0.05


@pytest.mark.parametrize(
    "run",
    ["w1_s0_adamw", *(f"w2_s{stage}_adamw{m}" for stage in STAGES for m in ("", "_whole"))],
)
def test_adamw_equals_plain_torch(runs: Path, run: str) -> None:
    # Biases before a norm have a true gradient of 0, of which Adam amplifies the rounding noise.
    assert column(runs / run, "loss") == pytest.approx(plain(runs, "adamw")["losses"], abs=1e-3)


def test_bf16_equals_plain_autocast(runs: Path) -> None:
    losses = column(runs / "w1_s0_bf16", "loss")
    assert losses == pytest.approx(plain(runs, "bf16")["losses"], abs=2e-3)
    assert losses != pytest.approx(plain(runs, "sgd")["losses"], abs=1e-6)  # it was bf16


@pytest.mark.parametrize("stage", STAGES)
def test_a_broken_sample_on_one_rank_is_skipped_by_all(runs: Path, stage: int) -> None:
    found = rows(runs / f"nan_s{stage}")
    assert [row["skipped_steps"] for row in found] == [0] * 4 + [1] * 6
    assert found[4]["loss"] is None and found[4]["grad_norm"] is None
    good = [row["loss"] for row in found if row["step"] != 5]
    assert good == pytest.approx(plain(runs, "nan")["losses"], abs=1e-5)


def test_nothing_but_broken_samples_ends_the_run_and_names_them(runs: Path) -> None:
    for said_by_rank in json.loads((runs / "skipped.json").read_text()):
        assert len(set(said_by_rank)) == 1
        assert "2 steps in a row were skipped" in said_by_rank[0]
        assert "samples 2 (s0002), 3 (s0003);" in said_by_rank[0]


@pytest.mark.parametrize("name", [*(f"w2_s{s}_to_w2_s{s}" for s in STAGES), "w2_s2_adamw_to_w2_s2"])
def test_continued_at_the_same_size_is_bit_identical(runs: Path, name: str) -> None:
    original, continued = runs / name.split("_to_")[0], runs / name
    for step in (6, 10):
        for file in (WEIGHTS, OPTIMIZER):
            expected = (at_step(original, step) / file).read_bytes()
            assert (at_step(continued, step) / file).read_bytes() == expected, (step, file)
        assert read_state(at_step(continued, step)) == read_state(at_step(original, step))
    timing = ("samples_per_s", "data_wait_fraction", "slowest_rank", "slowest_rank_ratio")
    timing += ("peak_memory_gb", "patch_ms", "augment_ms")
    without = [
        [{k: v for k, v in row.items() if k not in timing} for row in rows(run)]
        for run in (original, continued)
    ]
    assert without[0] == without[1]


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_continue_on_one_at_another_stage(runs: Path, stage: int) -> None:
    continued = runs / f"w2_s{stage}_to_w1_s{(stage + 1) % 4}"
    assert column(continued, "step") == list(range(1, 11))
    losses = column(continued, "loss")
    assert losses == pytest.approx(column(runs / f"w2_s{stage}", "loss"), abs=1e-5)
    assert read_state(at_step(continued, 10))["world"] == 1


def test_one_rank_continues_on_two_at_another_stage(runs: Path) -> None:
    losses = column(runs / "w1_s0_to_w2_s3", "loss")
    assert losses == pytest.approx(column(runs / "w1_s0", "loss"), abs=1e-5)


def test_nothing_is_said_but_what_the_user_needs(runs: Path) -> None:
    said = (runs / "said.txt").read_text()
    assert "[WARNING]" not in said, said  # DeepSpeed's own format
    assert "step 5 skipped: the loss is not finite; samples 18 (s0018)" in said
    assert "number of ranks changed from 2 to 1" in said


def test_ranks_agree(runs: Path) -> None:
    expected = ["from 0", [True, False], [[0.0], [1.0]], "done by 0", "error: no space"]
    assert json.loads((runs / "answers.json").read_text()) == [expected, expected]
