"""The verb `quickstart`: every stage in order, each one the same code that its own verb runs.

A second run of the same command continues where the first was stopped: finished cases, steps and
predictions are kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import typer

from data_tools.ingest import ingest
from data_tools.phantom import PhantomConfig, write_phantom
from data_tools.prepare import PrepareConfig, prepare
from finetune.picture import draw_prediction
from finetune.scores import CaseScore, DatasetScore
from finetune.transfer import TransferOptions, transfer
from launch.local import launch
from launch.progress import case_progress
from pretrain.export import export_run
from stunet.config import load_config
from stunet.errors import Preempted, TrainingError
from stunet.io.raw_case import read_case
from stunet.io.store import open_store
from stunet.io.volume import read_label
from stunet.types import RawDataset

PROCESSES = 2
RAW, STORE, RUN, BUNDLE, SCORES = "raw", "store", "run", "bundle", "transfer"  # below OUT


def quickstart(data: Path | None, out: Path, overrides: Sequence[str]) -> None:
    """Run the pipeline into `out` and print Dice per structure on cases not trained on.

    Args:
        data: A raw labelled data set, or None for a phantom data set.
        out: Folder for everything made.
        overrides: `key=value` for the training recipe.

    Raises:
        TrainingError: A training process failed; its own message stands above.
    """
    if data is None:
        _say("1/6 phantom data")
        data = write_phantom(out / RAW, load_config(PhantomConfig, None))
        recipe = "quickstart_phantom"
    else:
        _say(f"1/6 labelled scans in {data}")
        recipe = "quickstart_scans"
    raw = ingest(data)
    _say(f"2/6 prepare {len(raw.cases)} cases")
    with case_progress("prepare") as advance:
        config = load_config(PrepareConfig, f"data/{recipe}")
        prepare(raw, out / STORE, config, advance, on_plan=_say)
    held_out = [row.case_id for row in open_store(out / STORE).rows if row.split == "val"]
    _say(f"3/6 pretrain on {PROCESSES} processes")
    _pretrain(out, f"pretrain/{recipe}", overrides)
    _say("4/6 export the bundle")
    _export(out / RUN, out / BUNDLE)
    _say(f"5/6 predict and score {len(held_out)} held-out cases")
    with case_progress("transfer") as advance:
        options = TransferOptions(only=held_out, command="stunet quickstart")
        (score,) = transfer(out / BUNDLE, [raw], out / SCORES, options, advance)
    _say("6/6 report")
    _report(raw, score, out)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _pretrain(out: Path, recipe: str, overrides: Sequence[str]) -> None:
    values = (f"store={out / STORE}", f"out={out / RUN}", *overrides)
    code = launch(["pretrain", recipe, *values], PROCESSES)
    if code == Preempted.exit_code:
        raise Preempted("training saved itself and stopped; the same command continues")
    if code != 0:
        raise TrainingError(f"training ended with exit code {code}; its own message stands above")


def _export(run: Path, bundle: Path) -> None:
    """Export anew, since the run may have gone on; equal weights give an equal bundle."""
    if bundle.exists():
        shutil.rmtree(bundle)
    export_run(run, bundle)


def _report(raw: RawDataset, score: DatasetScore, out: Path) -> None:
    """Draw the median case, copy the summary to `OUT` and print the table."""
    shutil.copyfile(out / SCORES / raw.name / "summary.json", out / "summary.json")
    picture = out / "prediction.png"
    _draw(raw, sorted(score.cases, key=CaseScore.mean_dice)[len(score.cases) // 2], picture)
    means = score.dice()
    width = max(map(len, means))
    for name, dice in means.items():
        typer.echo(f"{name:<{width}}  {dice:.3f}")
    typer.echo(f"picture {picture}, report {out / SCORES / 'report.html'}")
    typer.echo(f"mean Dice {score.foreground_mean():.2f} on {len(score.cases)} held-out cases")


def _draw(raw: RawDataset, score: CaseScore, picture: Path) -> None:
    case = next(case for case in raw.cases if case.case_id == score.case_id)
    image, truth = read_case(case, raw)
    prediction = read_label(score.prediction_file, like=image)
    title = f"{score.case_id}, not trained on: mean Dice {score.mean_dice():.2f}"
    draw_prediction(picture, image, truth.array[0], prediction.array[0], raw.labels, title)
