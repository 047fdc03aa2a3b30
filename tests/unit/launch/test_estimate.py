"""`stunet estimate`, and what the headers of recipes quote from it."""

from __future__ import annotations

import json
import re
import shlex
from importlib import resources
from typing import Any

import pytest
from typer.testing import CliRunner

from launch.cli import app
from launch.estimate import GIB, span
from pretrain.config import PretrainConfig
from stunet.config import load_config, read_recipe
from stunet.errors import ConfigError
from stunet.io.store import open_store

PUBLISHED = ("stunet_s", "stunet_b", "stunet_l", "stunet_h")
QUOTE = re.compile(r"^# +(.+): ([\d.]+) GiB, ([\d.]+ \w+)\n# +stunet (estimate .+)$", re.MULTILINE)


def told(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", PUBLISHED)
def test_headers_quote_what_the_command_says(name: str) -> None:
    header = (resources.files("configs") / "pretrain" / f"{name}.yaml").read_text()
    quotes = QUOTE.findall(header)
    assert [where for where, *_ in quotes] == ["1 x H200", "8 x A100-40G", "8 nodes of 8 x H100"]
    for _, gibibytes, time, command in quotes:
        found = told(*shlex.split(command))["recipe"]
        assert f"pretrain/{name}" in command
        assert found["fits"]
        assert f"{found['memory']['peak'] / GIB:.1f}" == gibibytes
        assert span(found["days"]) == time


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_are_those_of_the_paper(name: str) -> None:
    """The values of the specification, section 2; poly decay and weights of scales are defaults."""
    config = load_config(PretrainConfig, f"pretrain/{name}", ["store=S", "out=O"])
    optim = config.optim
    assert config.network.size == name[-1].upper()
    assert (config.global_batch, optim.total_steps) == (2, 4000 * 250)
    assert (optim.name, optim.lr, optim.momentum, optim.nesterov) == ("sgd", 0.01, 0.99, True)
    assert (optim.weight_decay, optim.power, optim.warmup_steps) == (3e-5, 0.9, 0)
    assert optim.clip_norm == 12
    assert not config.batch_dice
    assert config.augment.mirror_axes == (0, 1, 2)
    assert config.sampler.foreground == pytest.approx(0.33)
    plan = read_recipe("data/totalsegmentator")["plan"]
    assert plan["spacing_mm"] == [1.5] * 3
    assert plan["patch_size"] == [128] * 3
    assert plan["strides"] == [[2, 2, 2]] * 4 + [[1, 1, 2]]
    assert plan["scheme"] == "zscore"


def test_a_store_tells_patch_and_labels(small_store) -> None:
    strides = "network.strides=[[2,2,2],[2,2,2],[2,2,2],[2,2,2],[1,1,1]]"
    store = f"store={small_store.root}"
    found = told("estimate", "pretrain/quickstart_phantom", store, strides)
    info = open_store(store.partition("=")[2]).info
    assert found["network"]["classes"] == max(info.labels.values()) + 1
    assert found["patch_size"] == list(info.patch_size)


def test_the_text_says_what_fits_and_what_would_be_faster() -> None:
    command = ["estimate", "pretrain/stunet_h", "global_batch=8", "parallel.micro_batch=8"]
    result = CliRunner().invoke(app, [*command, "--gpu", "H100"])
    assert result.exit_code == 0
    assert "does NOT fit" in result.stdout
    assert "advice     parallel.micro_batch=" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pretrain/stunet_b", "--gpu", "H300"], "H300: is unknown; choose one of B200, H200"),
        (["data/totalsegmentator"], "stage 'prepare' is none that trains"),
        (["pretrain/stunet_b", "--plan", "launch/cpu"], "has no plan.patch_size"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        CliRunner().invoke(app, ["estimate", *arguments], catch_exceptions=False)
