"""A run folder is continued by an equal run only, and says what it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.config import PretrainConfig
from stunet.config import load_config
from stunet.data.loader import LoaderConfig
from stunet.data.sampler import SamplerConfig
from stunet.engine.optim import OptimConfig
from stunet.engine.parallel import ParallelConfig
from stunet.errors import CheckpointError, ConfigError
from stunet.io.manifest import DatasetInfo
from stunet.io.remote import StoreOptions
from stunet.models.spec import ModelConfig
from stunet.training.recipe import NetworkConfig, StoreShare
from stunet.training.run_folder import CONFIG, claim, config_hash, read_json, write_status
from stunet.types import Channel

INFO = DatasetInfo(
    name="a",
    channels=(Channel("CT", "ct", (-1000.0, 900.0), 3.5, 20.0),),
    spacing_mm=(3.0, 1.5, 1.5),
    patch_size=(32, 32, 32),
    strides=((2, 2, 2),),
    labels={"background": 0, "liver": 1},
    ignore_label=None,
    licence="MIT",
    fingerprint={"median_shape": [70, 40, 50]},
    versions={},
)
CONTENT = ["ab"]
NETWORK = ModelConfig(in_channels=1, classes=2, strides=INFO.strides)


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(store="s", mixture=(), out=str(tmp_path / "run"))


def test_the_saved_configuration_alone_gives_the_run_again(
    tmp_path: Path, config: PretrainConfig
) -> None:
    mixed = replace(config, store="", mixture=(StoreShare("a", 2.0), StoreShare("b")))
    for number, each in enumerate((config, mixed)):
        run = tmp_path / f"run{number}"
        claim(run, each, INFO, CONTENT, NETWORK)
        assert load_config(PretrainConfig, run / CONFIG) == each
        assert DatasetInfo.from_json(read_json(run, "dataset.json")) == INFO


@pytest.mark.parametrize(
    "change",
    [
        {"store": "moved"},
        {"store": "", "mixture": (StoreShare("moved"),)},
        {"remote": StoreOptions(retries=1)},
        {"loader": LoaderConfig(workers=7)},
        {"parallel": ParallelConfig(zero_stage=3, micro_batch=1)},
    ],
)
def test_logistics_may_change_between_parts_of_a_run(
    tmp_path: Path, config: PretrainConfig, change: dict[str, object]
) -> None:
    claim(tmp_path / "run", config, INFO, CONTENT, NETWORK)
    changed = replace(config, **change)
    claim(tmp_path / "run", changed, INFO, CONTENT, NETWORK)
    assert config_hash(changed, CONTENT) == config_hash(config, CONTENT)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"optim": OptimConfig(lr=0.5)}, "optim.lr: 0.01 -> 0.5"),
        ({"network": NetworkConfig(size="B")}, "network.size: S -> B"),
        ({"parallel": ParallelConfig(precision="fp32")}, "parallel.precision: bf16 -> fp32"),
        ({"seed": 3}, "seed: 0 -> 3"),
        ({"store": "", "mixture": (StoreShare("s"), StoreShare("t"))}, "mixture: "),
        ({"sampler": SamplerConfig(patches_per_volume=8)}, "sampler.patches_per_volume: 1 -> 8"),
    ],
)
def test_what_decides_the_weights_may_not_change(
    tmp_path: Path, config: PretrainConfig, change: dict[str, object], told: str
) -> None:
    claim(tmp_path / "run", config, INFO, CONTENT, NETWORK)
    with pytest.raises(CheckpointError) as caught:
        claim(tmp_path / "run", replace(config, **change), INFO, CONTENT, NETWORK)
    assert told in str(caught.value)
    assert "out=" in str(caught.value)
    assert load_config(PretrainConfig, tmp_path / "run" / CONFIG) == config


@pytest.mark.parametrize(
    ("info", "content"), [(replace(INFO, name="b"), CONTENT), (INFO, ["cd"]), (INFO, ["ab", "cd"])]
)
def test_another_data_set_may_not_take_over_a_run(
    tmp_path: Path, config: PretrainConfig, info: DatasetInfo, content: list[str]
) -> None:
    claim(tmp_path / "run", config, INFO, CONTENT, NETWORK)
    with pytest.raises(CheckpointError, match="other data than s; name another out"):
        claim(tmp_path / "run", config, info, content, NETWORK)


def test_regions_in_another_order_are_other_data(tmp_path: Path, config: PretrainConfig) -> None:
    regions = {"whole": (1, 2), "core": (2,)}
    info = replace(INFO, regions=regions, regions_class_order=(1, 2))
    turned = replace(info, regions=dict(reversed(regions.items())))
    assert info == turned  # as mappings they are the same
    for _ in range(2):
        claim(tmp_path / "run", config, info, CONTENT, NETWORK)
    with pytest.raises(CheckpointError, match="other data than s"):
        claim(tmp_path / "run", config, turned, CONTENT, NETWORK)


def test_the_hash_depends_on_the_data_too(config: PretrainConfig) -> None:
    assert config_hash(config, ["cd"]) != config_hash(config, CONTENT)


@pytest.mark.parametrize(
    ("store", "mixture"), [("", ()), ("s", (StoreShare("t"),))], ids=["neither", "both"]
)
def test_data_are_named_once(store: str, mixture: tuple[StoreShare, ...]) -> None:
    with pytest.raises(ConfigError, match=r"store=PATH or mixture=\["):
        PretrainConfig(out="o", store=store, mixture=mixture)


def test_a_mixture_is_given_on_the_command_line() -> None:
    mixture = "mixture=[{path: a, weight: 2}, {path: 's3://b/c'}]"
    config = load_config(PretrainConfig, None, ["out=o", mixture])
    assert config.shares == (StoreShare("a", 2.0), StoreShare("s3://b/c", 1.0))
    with pytest.raises(ConfigError, match=r"wight.*Did you mean: 'weight'"):
        load_config(PretrainConfig, None, ["out=o", "mixture=[{path: a, wight: 2}]"])


def test_status_holds_facts_and_versions(tmp_path: Path) -> None:
    write_status(tmp_path, "running", {"world": 2})
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["state"], record["world"]) == ("running", 2)
    assert record["versions"].keys() >= {"stunet", "torch", "deepspeed"}


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no readable run"):
        read_json(tmp_path, "run.json")
