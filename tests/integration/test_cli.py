"""The command as a user types it: exit codes, one-line errors, nothing slow at import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.stages import schema_of
from stunet.config import load_config
from stunet.errors import ConfigError


def stunet(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False
    )


def test_models_lists_the_published_parameter_counts() -> None:
    rows = json.loads(stunet("models", "--json").stdout)
    counts = {row["size"]: row["parameters"] for row in rows if row["name"] == "stunet"}
    published = {"S": 14_596_941, "B": 58_262_669, "L": 440_302_605, "H": 1_457_326_221}
    assert counts | published == counts  # and a size of our own


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["doctor"]])
def test_quick_verbs_do_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from launch.cli import app; "
        f"app({arguments!r}, standalone_mode=False); "
        "print([m for m in ('torch', 'numpy', 'omegaconf') if m in sys.modules], file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["modelz"], ["modelz", "models"]),
        (["data", "show", "absent.nii.gz"], ["absent.nii.gz"]),
        (["pretrain", "pretrain/absent"], ["pretrain/absent", "shipped recipes"]),
        (["pretrain", "pretrain/quickstart_phantom", "stepz=3"], ["stepz"]),
        (["finetune", "finetune/full", "out=o", "store=s"], ["init=BUNDLE", "init=none"]),
        (["export", "absent", "out"], ["absent"]),
        (["convert", "absent.pth", "out"], ["absent.pth", "does not exist"]),
        (["export", "run@x", "out"], ["'x'", "RUN@STEP"]),
        (["predict", "absent", "scan.nii.gz", "--out", "out"], ["absent"]),
        (["config", "check", "pretrain/quickstart_phantom", "optim.lrr=1"], ["lrr", "lr"]),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    run = stunet(*arguments, cwd=tmp_path)
    assert run.returncode == 2, run.stderr
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1, run.stderr
    for word in words:
        assert word in run.stderr


def test_verify_tells_findings_one_per_line_and_exits_with_2(tmp_path: Path) -> None:
    run = stunet("data", "verify", tmp_path)
    assert run.returncode == 2
    finding, count = run.stdout.splitlines()
    assert finding.startswith("dataset.json: ")
    assert "stunet data prepare" in finding
    assert count == f"{tmp_path}: 1 finding(s)"


def test_every_shipped_recipe_passes_config_check() -> None:
    configs = Path(__file__).resolve().parents[2] / "configs"
    recipes = sorted(map(str, configs.rglob("*.yaml")))
    assert stunet("config", "check", recipes[0]).stdout == "ok\n"
    for recipe in recipes:  # as the command does, without starting it each time
        start = ["init=none"] if "/finetune/" in recipe else []
        try:
            load_config(schema_of(recipe), recipe, ["store=s", "out=o", *start])
        except ConfigError as error:  # a recipe of a stage that reads raw data
            assert "store" in str(error)
            load_config(schema_of(recipe), recipe)


def test_a_foreign_package_with_our_name_is_named(tmp_path: Path) -> None:
    intruder = tmp_path / "pretrain"
    intruder.mkdir()
    (intruder / "__init__.py").write_text("")
    code = "from launch.env import check_neighbours; check_neighbours()"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert str(intruder) in run.stderr
    assert "beside stunet" in run.stderr
