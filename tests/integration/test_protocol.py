"""A protocol from end to end on tiny phantoms: trained, scored on what was held out, resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.ingest import ingest
from data_tools.phantom import PhantomConfig, write_phantom
from data_tools.plan import PlanConfig
from data_tools.prepare import PrepareConfig, prepare
from finetune.config import AdaptConfig, FinetuneConfig
from finetune.protocol import finished
from finetune.protocol_trials import ProtocolConfig, plan_protocol
from stunet.bundle import write_bundle
from stunet.config import load_config
from stunet.errors import CheckpointError
from stunet.inference.model_card import Provenance
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.training.recipe import NetworkConfig
from stunet.types import Channel, Preprocessing

STRIDES = ((2, 2, 2), (2, 2, 2), *((1, 1, 1),) * 3)
# A forked process for each training: torch is imported once. The verb starts new ones.
RUN = """
import shutil
import sys
from multiprocessing import get_context
from data_tools.ingest import ingest
from finetune.protocol import run_protocol
from finetune.protocol_trials import ProtocolConfig, plan_protocol
from finetune.train import train

def train_apart(trial):
    print("trains", trial.folder.name, flush=True)
    process = get_context("fork").Process(target=train, args=(trial.config,))
    process.start()
    process.join()
    assert process.exitcode == 0

how = ProtocolConfig(raw=sys.argv[1], cases=("1", "100%"), tolerance_mm=8.0)
protocol = plan_protocol("finetune/full", sys.argv[2:], how)
run_protocol(protocol, ingest(how.raw), train_apart, "typed")
shutil.copytree(protocol.config.out, protocol.config.out + ".first")
shutil.rmtree(protocol.trials[1].folder)
print("again")
run_protocol(protocol, ingest(how.raw), train_apart, "typed")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw scans of which two are held out, their store, and a bundle."""
    place = tmp_path_factory.mktemp("protocol")
    raw = write_phantom(
        place / "raw",
        PhantomConfig(cases=5, classes=2, shape_zyx=(29, 33, 42), spacing_mm=(8,) * 3),
    )
    plan = PlanConfig(patch_size=(16, 32, 32), strides=STRIDES)
    prepare(ingest(raw), place / "store", PrepareConfig(plan=plan, holdout=2))
    model = ModelConfig(size="XS", in_channels=1, classes=2, strides=STRIDES)
    preprocessing = Preprocessing((8.0, 8.0, 8.0), (16, 16, 16), (Channel("CT", "zscore"),))
    provenance = Provenance("Apache-2.0", (), {}, None, 0, {}, {})
    labels = {"background": 0, "spleen": 1}
    weights = build_model(model, seed=5).state_dict()
    write_bundle(place / "bundle", model, preprocessing, labels, weights, provenance)
    return place


def values(place: Path) -> list[str]:
    return [
        f"init={place / 'bundle'}",
        f"store={place / 'store'}",
        f"out={place / 'out'}",
        *("plan=target", "global_batch=2", "loader.workers=0", "parallel.micro_batch=2"),
        *("parallel.precision=fp32", "optim.total_steps=2", "optim.warmup_steps=0"),
        *("optim.lr=0.05", "loop.validate_every=0", "loop.log_every=1"),
    ]


def test_protocol(place: Path) -> None:
    command = [sys.executable, "-c", RUN, str(place / "raw"), *values(place)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    first, again = done.stdout.split("again\n")
    assert trained(first) == [
        *("pretrained-1-0", "scratch-1-0"),
        *("pretrained-100percent-0", "scratch-100percent-0"),
    ]
    found = json.loads((place / "out" / "protocol.json").read_text())
    held_out = set(found["scored_on"])
    assert len(held_out) == 2
    one, many = (set(found["trials"][number]["trained_on"]) for number in (0, 2))
    assert (len(one), len(many)) == (1, 3)
    assert one < many and not many & held_out
    for trial in found["trials"]:
        _check_trial(trial, held_out)
    assert [gain["tests"]["Dice"]["n"] for gain in found["gains"]] == [2, 2]

    page = (place / "out" / "report.html").read_text()
    assert page.count("arm-dot pretrained") == page.count("arm-dot scratch") == 2
    assert "<script" not in page and "typed" in page

    # What has finished is kept, what is missing is made again, and comes out the same.
    assert trained(again) == ["scratch-1-0"]
    before = json.loads((place / "out.first" / "protocol.json").read_text())
    assert before["results"] == found["results"]


def test_a_run_of_another_recipe_is_not_taken(place: Path) -> None:
    how = ProtocolConfig(raw=str(place / "raw"), cases=("1",))
    (trial, _) = plan_protocol("finetune/full", values(place), how).trials
    assert finished(trial)
    (other, _) = plan_protocol("finetune/full", [*values(place), "optim.lr=0.1"], how).trials
    with pytest.raises(CheckpointError, match=r"with other values \(optim.lr: 0.05 -> 0.1\)"):
        finished(other)


def test_folds_go_through_all_cases(place: Path) -> None:
    how = ProtocolConfig(raw="", cases=("50%",), arms=("pretrained",), folds=(0, 1), repeats=2)
    trials = plan_protocol("finetune/full", [*values(place), "split.folds=2"], how).trials
    assert [trial.folder.name for trial in trials] == [
        f"pretrained-50percent-{repeat}-fold{fold}" for repeat in (0, 1) for fold in (0, 1)
    ]
    assert [trial.config.seed for trial in trials] == [0, 0, 1, 1]
    assert len({*trials[0].scored_on, *trials[1].scored_on}) == 5
    for trial in trials:
        assert not {*trial.trained_on} & {*trial.scored_on}
        assert trial.config == load_config(FinetuneConfig, *trial.command[1:2], trial.command[2:])


def test_scratch_is_the_same_network_trained_whole(place: Path) -> None:
    how = ProtocolConfig(raw="", cases=("1",))
    frozen = ["adapt.train=[head]", "adapt.l2_sp=0.1"]
    with_bundle, scratch = plan_protocol("finetune/full", [*values(place), *frozen], how).trials
    assert with_bundle.config.adapt.train == ("head",)
    assert scratch.config.adapt == AdaptConfig()
    assert scratch.config.network == NetworkConfig("stunet", "XS", STRIDES)
    for same in ("optim", "seed", "global_batch", "augment", "sampler", "split"):
        assert getattr(scratch.config, same) == getattr(with_bundle.config, same)


def trained(said: str) -> list[str]:
    return [line.split()[1] for line in said.splitlines() if line.startswith("trains")]


def _check_trial(trial: dict[str, Any], held_out: set[str]) -> None:
    """Run and scores are what the protocol says of them."""
    folder = Path(trial["run"])
    said = json.loads((folder / "run.json").read_text())
    assert said["split"][0]["train"] == trial["trained_on"]
    assert said["data"][-1]["cases"] == len(trial["trained_on"])
    summary = json.loads((folder.parent / "scores" / "raw" / "summary.json").read_text())
    cases = summary["metric_per_case"]
    assert {Path(case["reference_file"]).name.split(".")[0] for case in cases} == held_out
    dice = [entry["Dice"] for case in cases for entry in case["metrics"].values()]
    assert trial["mean_dice"] == pytest.approx(np.mean(dice))
