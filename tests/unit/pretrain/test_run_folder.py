"""A run folder is continued by an equal run only, and says what it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.config import NetworkConfig, PretrainConfig
from pretrain.run_folder import CONFIG, claim, config_hash, read_json, write_status
from stunet.config import load_config
from stunet.data.loader import LoaderConfig
from stunet.engine.optim import OptimConfig
from stunet.engine.parallel import ParallelConfig
from stunet.errors import CheckpointError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "dataset.json").write_text('{"name": "a"}')
    (folder / "manifest.jsonl").write_text("one row\n")
    return folder


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(store="s", out=str(tmp_path / "run"))


def test_the_saved_configuration_alone_gives_the_run_again(
    tmp_path: Path, store: Path, config: PretrainConfig
) -> None:
    claim(tmp_path / "run", config, store)
    assert load_config(PretrainConfig, tmp_path / "run" / CONFIG) == config


@pytest.mark.parametrize(
    "change",
    [
        {"store": "moved"},
        {"loader": LoaderConfig(workers=7)},
        {"parallel": ParallelConfig(zero_stage=3, micro_batch=1)},
    ],
)
def test_logistics_may_change_between_parts_of_a_run(
    tmp_path: Path, store: Path, config: PretrainConfig, change: dict[str, object]
) -> None:
    claim(tmp_path / "run", config, store)
    changed = replace(config, **change)
    claim(tmp_path / "run", changed, store)
    assert config_hash(changed, store) == config_hash(config, store)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"optim": OptimConfig(lr=0.5)}, "optim.lr: 0.01 -> 0.5"),
        ({"network": NetworkConfig(size="B")}, "network.size: S -> B"),
        ({"parallel": ParallelConfig(precision="fp32")}, "parallel.precision: bf16 -> fp32"),
        ({"seed": 3}, "seed: 0 -> 3"),
    ],
)
def test_what_decides_the_weights_may_not_change(
    tmp_path: Path, store: Path, config: PretrainConfig, change: dict[str, object], told: str
) -> None:
    claim(tmp_path / "run", config, store)
    with pytest.raises(CheckpointError) as caught:
        claim(tmp_path / "run", replace(config, **change), store)
    assert told in str(caught.value)
    assert "out=" in str(caught.value)
    assert load_config(PretrainConfig, tmp_path / "run" / CONFIG) == config


def test_another_data_set_may_not_take_over_a_run(
    tmp_path: Path, store: Path, config: PretrainConfig
) -> None:
    claim(tmp_path / "run", config, store)
    (store / "dataset.json").write_text('{"name": "b"}')
    with pytest.raises(CheckpointError, match="another data set"):
        claim(tmp_path / "run", config, store)


def test_the_hash_depends_on_the_data_too(store: Path, config: PretrainConfig) -> None:
    before = config_hash(config, store)
    (store / "manifest.jsonl").write_text("another row\n")
    assert config_hash(config, store) != before


def test_status_holds_facts_and_versions(tmp_path: Path) -> None:
    write_status(tmp_path, "running", {"world": 2})
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["state"], record["world"]) == ("running", 2)
    assert record["versions"].keys() >= {"stunet", "torch", "deepspeed"}


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no readable run"):
        read_json(tmp_path, "run.json")
