"""The verb `quickstart`: every stage in order, each one the same code that its own verb runs.

A second run of the same command continues where the first was stopped: finished cases, steps and
predictions are kept.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import typer

from data_tools.ingest import ingest
from data_tools.phantom import PhantomConfig, write_phantom
from data_tools.prepare import PrepareConfig, prepare
from finetune.picture import draw_prediction
from finetune.scores import CaseScore, DatasetScore
from finetune.transfer import TransferOptions, transfer
from launch.local import train_to_end
from launch.progress import case_progress
from launch.quickstart_onward import carry_over, fine_tune
from pretrain.config import PretrainConfig
from stunet import load
from stunet.config import load_config
from stunet.errors import BundleError
from stunet.hub.publish import Release, publish
from stunet.io.raw_case import read_case
from stunet.io.store import open_store
from stunet.io.volume import read_label
from stunet.training.export import export_run
from stunet.types import RawDataset

PROCESSES = 2
RAW, STORE, RUN, BUNDLE, SCORES = "raw", "store", "run", "bundle", "transfer"  # below OUT
RELEASE = "release"


def quickstart(data: Path | None, out: Path, overrides: Sequence[str]) -> None:
    """Run the pipeline into `out` and print Dice per structure on cases not trained on.

    Args:
        data: A raw labelled data set, or None for a phantom data set.
        out: Folder for everything made.
        overrides: `key=value` for the training recipe.

    Raises:
        TrainingError: A training process failed; its own message stands above.
    """
    own_scans = data is not None
    stage = _stages(7 if own_scans else 9)
    if data is None:
        stage("phantom data")
        data = write_phantom(out / RAW, load_config(PhantomConfig, None))
        recipe = "quickstart_phantom"
    else:
        stage(f"labelled scans in {data}")
        recipe = "quickstart_scans"
    raw = ingest(data)
    stage(f"prepare {len(raw.cases)} cases")
    with case_progress("prepare") as advance:
        config = load_config(PrepareConfig, f"data/{recipe}")
        prepare(raw, out / STORE, config, advance, on_plan=_say)
    held_out = [row.case_id for row in open_store(out / STORE).rows if row.split == "val"]
    stage(f"pretrain on {PROCESSES} processes")
    places = (f"store={out / STORE}", f"out={out / RUN}")
    train_to_end(["pretrain", f"pretrain/{recipe}", *places, *overrides], PROCESSES)
    stage("export the bundle")
    _export(out / RUN, out / BUNDLE)
    stage(f"predict and score {len(held_out)} held-out cases")
    with case_progress("transfer") as advance:
        options = TransferOptions(only=held_out, command="stunet quickstart")
        (score,) = transfer(out / BUNDLE, [raw], out / SCORES, options, advance)
    stage("publish to a folder and load it again")
    _publish(raw, score, out)
    told = []
    if not own_scans:
        stage("fine-tune the bundle on phantoms with other labels")
        told.append(fine_tune(out / BUNDLE, out / "finetune"))
        stage("transfer the bundle as it is to phantoms from another scanner")
        told.append(carry_over(out / BUNDLE, out / "elsewhere"))
    stage("report")
    _report(raw, score, out, told)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _stages(total: int) -> Callable[[str], None]:
    """What announces the next of so many stages."""
    numbers = itertools.count(1)
    return lambda title: _say(f"{next(numbers)}/{total} {title}")


def _export(run: Path, bundle: Path) -> None:
    """Export anew, since the run may have gone on; equal weights give an equal bundle."""
    if bundle.exists():
        shutil.rmtree(bundle)
    export_run(run, bundle, PretrainConfig)


def _publish(raw: RawDataset, score: DatasetScore, out: Path) -> None:
    """Release the bundle with its scores; what is loaded from there must segment the same."""
    release = out / RELEASE
    if release.exists():
        shutil.rmtree(release)
    publish(out / BUNDLE, release, Release(reports=(out / SCORES,)))
    first = score.cases[0]
    case = next(case for case in raw.cases if case.case_id == first.case_id)
    image, _ = read_case(case, raw)
    before = read_label(first.prediction_file, like=image)
    if not np.array_equal(load(release).predict_volume(image), before.array[0]):
        raise BundleError(f"bundle {release}: segments {case.case_id} otherwise than {BUNDLE} did")


def _report(raw: RawDataset, score: DatasetScore, out: Path, told: Sequence[str]) -> None:
    """Draw the median case, copy the summary to `OUT`, print the table and what else is to tell."""
    shutil.copyfile(out / SCORES / raw.name / "summary.json", out / "summary.json")
    picture = out / "prediction.png"
    _draw(raw, sorted(score.cases, key=CaseScore.mean_dice)[len(score.cases) // 2], picture)
    means = score.dice()
    width = max(map(len, means))
    for name, dice in means.items():
        typer.echo(f"{name:<{width}}  {dice:.3f}")
    for line in told:
        typer.echo(line)
    typer.echo(f"picture {picture}, report {out / SCORES / 'report.html'}")
    typer.echo(f"mean Dice {score.foreground_mean():.2f} on {len(score.cases)} held-out cases")


def _draw(raw: RawDataset, score: CaseScore, picture: Path) -> None:
    case = next(case for case in raw.cases if case.case_id == score.case_id)
    image, truth = read_case(case, raw)
    prediction = read_label(score.prediction_file, like=image)
    title = f"{score.case_id}, not trained on: mean Dice {score.mean_dice():.2f}"
    draw_prediction(picture, image, truth.array[0], prediction.array[0], raw.labels, title)
