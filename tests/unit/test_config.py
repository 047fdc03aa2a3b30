"""Recipes: precedence, types, and one-line errors that name the place and the next action."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from stunet.config import differences, load_config, read_recipe, to_yaml
from stunet.errors import ConfigError


@dataclass(frozen=True)
class Optim:
    lr: float = 0.01
    name: Literal["sgd", "adamw"] = "sgd"


@dataclass(frozen=True)
class Run:
    store: str
    steps: int = 10
    patch_size: tuple[int, int, int] | None = None
    strides: tuple[tuple[int, int, int], ...] | None = None
    optim: Optim = field(default_factory=Optim)


def recipe(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_overrides_win_over_recipe_over_extended_recipe_over_defaults(tmp_path: Path) -> None:
    recipe(tmp_path, "base.yaml", "store: s\nsteps: 1\noptim: {lr: 0.5, name: adamw}\n")
    child = recipe(tmp_path, "child.yaml", "extends: base.yaml\nsteps: 2\noptim: {lr: 0.25}\n")
    config = load_config(Run, child, ["steps=3"])
    assert config == Run(store="s", steps=3, optim=Optim(lr=0.25, name="adamw"))


def test_sequences_become_tuples_at_every_depth(tmp_path: Path) -> None:
    config = load_config(Run, None, ["store=s", "patch_size=[1,2,3]", "strides=[[1,2,2],[2,2,2]]"])
    assert config.patch_size == (1, 2, 3)
    assert config.strides == ((1, 2, 2), (2, 2, 2))


def test_saved_yaml_reads_back_unchanged(tmp_path: Path) -> None:
    config = load_config(Run, None, ["store=a, b", "optim.lr=3e-4", "strides=[[1,2,2]]"])
    assert load_config(Run, recipe(tmp_path, "saved.yaml", to_yaml(config))) == config


def test_differences_name_the_key_and_both_values() -> None:
    left, right = Run("s"), Run("s", steps=20, optim=Optim(lr=1.0))
    assert differences(left, right) == ["optim.lr: 0.01 -> 1.0", "steps: 10 -> 20"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["store=s", "optim.lrr=1"], ["optim.lrr=1", "Did you mean", "lr"]),
        (["store=s", "stepps=1"], ["stepps", "Did you mean", "steps"]),
        (["store=s", "steps=many"], ["steps=many", "could not be converted to Integer"]),
        (["store=s", "optim.name=adam"], ["optim.name", "'sgd', 'adamw'"]),
        (["store=s", "patch_size=[1,2]"], ["patch_size=[1,2]", "length 2"]),
        (["store=s", "steps"], ["expected key=value"]),
        ([], ["'store' is not set", "store=..."]),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Run, None, overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_broken_or_unknown_recipe_is_one_line(tmp_path: Path) -> None:
    for path, word in [
        (recipe(tmp_path, "broken.yaml", "a: [1,\n"), "not valid YAML"),
        (recipe(tmp_path, "empty.yaml", ""), "no 'key: value' lines"),
        (recipe(tmp_path, "loop.yaml", "extends: loop.yaml\n"), "circle"),
        (tmp_path / "absent.yaml", "shipped recipes"),
    ]:
        with pytest.raises(ConfigError) as caught:
            read_recipe(path)
        assert word in str(caught.value)
        assert "\n" not in str(caught.value)
