"""The batch script: what a user asks for is in it, and bash reads it as it was meant."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from launch.launch_config import LaunchConfig, split_values
from launch.slurm_script import load_recipe, stage_script, training_script
from launch.stages import check_trains
from stunet.errors import ConfigError


def script(tmp_path: Path, *values: str) -> str:
    config, rest = split_values(values)
    data = (
        [] if any(value.startswith("mixture=") for value in rest) else ["store=s3://bucket/store"]
    )
    given = [f"out={tmp_path / 'my run'}", *data, *rest]
    return training_script(
        config, "pretrain", load_recipe("pretrain", "pretrain/quickstart_phantom", given)
    )


def check(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_resources_stand_in_the_header(tmp_path: Path) -> None:
    text = script(
        tmp_path,
        *("on=launch/a100", "nodes=4", "partition=gpu", "account=lab7", "qos=long", "cpus=32"),
        *("constraint=nvlink", "time=2-00:00:00", "lead_s=120", "options=[--mail-type=FAIL]"),
    )
    check(text)
    header = [line.split(" ", 1)[1] for line in text.splitlines() if line.startswith("#SBATCH")]
    assert set(header) >= {
        *("--nodes=4", "--gpus-per-node=8", "--cpus-per-task=32", "--mem=900G", "--exclusive"),
        *("--partition=gpu", "--account=lab7", "--qos=long", "--constraint=nvlink"),
        *("--time=2-00:00:00", "--signal=B:USR1@120", "--mail-type=FAIL", "--requeue"),
        f"--output='{tmp_path}/my run/launch/%j.log'",
    }
    assert "--processes 8 --nodes 4" in text
    assert "srun --nodes=4 --ntasks=4 --ntasks-per-node=1 --cpus-per-task=32" in text
    assert "export NCCL_DEBUG=WARN\n" in text


def test_fine_tuning_is_started_from_where_its_bundle_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bundle").mkdir()
    values = ["out=run", "store=s3://bucket/store"]
    local = load_recipe("finetune", "finetune/full", [*values, "init=bundle"])
    assert local.init == str(tmp_path / "bundle")
    far = load_recipe("finetune", "finetune/full", [*values, "init=hf://lab/model"])
    assert far.init == "hf://lab/model"
    text = training_script(LaunchConfig(), "finetune", local)
    check(text)
    assert "launch local finetune " in text and "--stage finetune " in text
    with pytest.raises(ConfigError, match="'predict' is not pretrain or finetune"):
        check_trains("slurm", "predict")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("runtime: apptainer",), "apptainer exec --nv --bind /data:/data 'my image.sif' py -P"),
        (("runtime: enroot",), "'--container-image=my image.sif' --container-mounts=/data:/data"),
    ],
)
def test_a_container_holds_every_command(
    tmp_path: Path, values: tuple[str, ...], words: str
) -> None:
    box = f"container={{image: my image.sif, mounts: ['/data:/data'], python: py, {values[0]}}}"
    text = script(tmp_path, "gpus=1", box)
    check(text)
    assert text.count(words) == 2  # on one node, and on every node
    assert "python3" not in text


def test_words_with_spaces_reach_the_command_whole(tmp_path: Path) -> None:
    arguments = ["transfer", "a b", "it's", "$HOME"]
    text = stage_script(LaunchConfig(), "transfer", tmp_path, arguments)
    check(text)
    line = next(line for line in text.splitlines() if line.startswith('"${stunet[@]}" transfer'))
    said = subprocess.run(
        ["bash", "-c", f'stunet=(printf "%s\\n"); {line}'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.splitlines() == arguments


def test_a_mixture_is_staged_under_names_that_differ(tmp_path: Path) -> None:
    mixture = "mixture=[{path: /a/store, weight: 2}, {path: /b/store, weight: 1}]"
    text = script(tmp_path, mixture, "stage_to=/local")
    check(text)
    copies = [
        line.split("data copy ")[1].split(" ||")[0]
        for line in text.splitlines()
        if "data copy " in line
    ]
    (source_a, copy_a), (source_b, copy_b) = (copy.split() for copy in copies)
    assert (source_a, source_b) == ("/a/store", "/b/store")
    assert copy_a != copy_b
    assert f"{{path: {copy_a}, weight: 2.0}}, {{path: {copy_b}, weight: 1.0}}" in text


def test_lists_of_an_array_go_side_by_side(tmp_path: Path) -> None:
    text = script(tmp_path, "array={seed: [1, 2], store: [/f/fold0, /f/fold1]}")
    check(text)
    assert "--array=0-1" in text
    run = tmp_path / "my run" / "seed_2-store_fold1"
    assert f"1) run='{run}'; values=(seed=2 store=/f/fold1 'out={run}') ;;" in text


def test_a_template_of_the_user_takes_the_place_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "mine.j2"
    file.write_text("#!/bin/sh\n#SBATCH --nodes={{ config.nodes }}\n{{ job.arguments | quoted }}\n")
    assert script(tmp_path, f"template={file}", "nodes=3").splitlines()[1] == "#SBATCH --nodes=3"
    file.write_text("{{ config.nodez }}")
    with pytest.raises(ConfigError, match="nodez"):
        script(tmp_path, f"template={file}")


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("nodes=0", "nodes=0"),
        ("processes=0", "processes=0"),
        ("array={seed: [1, 2], store: [a]}", "same length"),
        ("array={seed: 1}", "list of values"),
        ("array={store: [/a/x, /b/x]}", "share a run folder"),
        ("container.runtime=docker", "docker"),
        ("on=launch/absent", "launch/absent"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, value: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        script(tmp_path, value)
