"""The verb `predict`: scans in, label files out; shared over the ranks that torchrun starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import typer

from launch.env import Rank, this_rank
from launch.progress import case_progress
from stunet import __version__
from stunet.bundle import load_predictor, read_bundle
from stunet.engine import distributed
from stunet.errors import DataError, StunetError
from stunet.inference.dicom_seg import check_dicom_seg
from stunet.inference.inputs import Scan, list_scans
from stunet.inference.outputs import Outputs, Result
from stunet.inference.predictor import Predictor, Wish, read_channels
from stunet.inference.sliding_window import WindowOptions
from stunet.io.raw_case import sha256_of

# What one scan may die of without the others: bad files, a full disk, a volume too large.
SCAN_ERRORS = (StunetError, OSError, MemoryError, torch.OutOfMemoryError)
LONGEST_WAIT_S = 7 * 24 * 3600.0  # a rank that is done waits this long for one with larger scans


@dataclass(frozen=True)
class PredictOptions:
    """How scans are segmented.

    Attributes:
        device: Where the network runs; under torchrun `cuda` is the rank's own GPU.
        window: How the sliding window moves.
        wish: Which structures, and whether to look for them coarsely first.
        overwrite: Segment anew what is there already.
    """

    device: str = "cpu"
    window: WindowOptions = field(default_factory=WindowOptions)
    wish: Wish = field(default_factory=Wish)
    overwrite: bool = False


def predict_scans(
    bundle_folder: Path, inputs: Sequence[Path], outputs: Outputs, options: PredictOptions
) -> None:
    """Segment every scan that the inputs name and that is not finished yet.

    Raises:
        DataError: No scan is found, two have one name; or, once all others are written, some
            failed. On other ranks than 0 the exit code alone tells the last.
    """
    rank = this_rank()
    if outputs.dicom_seg:
        check_dicom_seg()
    bundle = read_bundle(bundle_folder)
    scans = list_scans(inputs, len(bundle.preprocessing.channels))
    predictor = load_predictor(bundle, rank.device(options.device), options.window)
    predictor.kept(options.wish.classes)  # a wrong name is told before any work
    if rank.world > 1:  # before the work: ranks that do not find each other are noticed now
        distributed.start(LONGEST_WAIT_S)
    outputs.folder.mkdir(parents=True, exist_ok=True)
    work = _Work(predictor, bundle.sha256, outputs, options)
    failures = work.through(scans[rank.index :: rank.world], quiet=rank.index > 0)
    if rank.world > 1:
        told = distributed.gather_text(json.dumps(failures))
        failures = [failure for text in told for failure in json.loads(text)]
        distributed.stop()
    _raise_for(failures, len(scans), rank)


@dataclass(frozen=True)
class _Work:
    predictor: Predictor
    bundle_sha256: str
    outputs: Outputs
    options: PredictOptions

    def through(self, scans: Sequence[Scan], quiet: bool) -> list[str]:
        """Segment one scan after the other; return one line for each that failed."""
        failures = []
        with case_progress("predict", quiet) as advance:
            for done, scan in enumerate(scans):

                def on_window(window: int, of: int, done: int = done, scan: Scan = scan) -> None:
                    advance(done, len(scans), f"{scan.name} window {window}/{of}")

                try:
                    self._segment(scan, on_window)
                except SCAN_ERRORS as error:
                    told = str(error) or type(error).__name__
                    failures.append(told if scan.name in told else f"{scan.name}: {told}")
                advance(done + 1, len(scans), scan.name)
        return failures

    def _segment(self, scan: Scan, on_window: Callable[[int, int], None]) -> None:
        made_by = self._made_by(scan)
        if not self.options.overwrite and self.outputs.finished(scan.name, made_by):
            return
        image = read_channels(scan.images)
        label_zyx = self.predictor.predict_volume(image, self.options.wish, on_window)
        channels = [channel.name for channel in self.predictor.preprocessing.channels]
        labels = self.predictor.kept(self.options.wish.classes)
        self.outputs.write(scan.name, Result(image, channels, label_zyx, labels, made_by))

    def _made_by(self, scan: Scan) -> dict[str, Any]:
        """All that decides the labels of a scan, as JSON gives it back."""
        made_by = {
            "stunet": __version__,
            "bundle_sha256": self.bundle_sha256,
            "window": asdict(self.options.window),
            "wish": asdict(self.options.wish),
            "sources_sha256": {image.name: sha256_of(image) for image in scan.images},
        }
        reread: dict[str, Any] = json.loads(json.dumps(made_by))
        return reread


def _raise_for(failures: Sequence[str], scans: int, rank: Rank) -> None:
    if not failures:
        return
    if rank.index > 0:
        raise typer.Exit(DataError.exit_code)
    for failure in failures:
        typer.echo(f"failed: {failure}", err=True)
    raise DataError(
        f"{len(failures)} of {scans} scans failed, listed above; the others are written; repair "
        "them and run again"
    )
