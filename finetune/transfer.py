"""Direct inference: how well a bundle segments data sets that it has not seen, as it is.

Each case is predicted on its own grid in world space and compared with its reference there. What
is written below `OUT`:

    NAME/predictions/CASE.nii.gz   all structures of the bundle, under the bundle's values
    NAME/predictions/CASE.json     what made it; a prediction is reused only while this holds
    NAME/summary.json              the means of data set NAME, in nnU-Net's shape
    cases.csv                      one row per data set, case and structure
    report.html                    all of it for people, in one file
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path

import numpy as np
import torch

from finetune.matching import Matching, match_labels
from finetune.report import Run, write_report
from finetune.scores import CaseScore, DatasetScore, LeftOut, leave_out, score_case, summarise
from finetune.summary import write_cases_csv, write_summary
from stunet import __version__
from stunet.bundle import LABELS, Bundle, load_predictor, read_bundle
from stunet.data.crosswalk import choose_crosswalk
from stunet.errors import DataError, StunetError
from stunet.inference.predictor import Predictor, WindowOptions
from stunet.io.atomic import atomic_write_text
from stunet.io.raw_case import annotated_values, read_case, sha256_of, source_hashes
from stunet.io.volume import Volume, read_label, write_label
from stunet.types import RawCase, RawDataset

SPLITS = ("train", "val", "test")
PREDICTIONS = "predictions"
# What one case may die of without the others: bad files, a full disk, a volume too large.
CASE_ERRORS = (StunetError, OSError, MemoryError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class TransferOptions:
    """How a bundle is evaluated.

    Attributes:
        only: `all`, one split (`train`, `val`, `test`) as the data set declares it, or case ids.
        crosswalks: As `stunet.data.crosswalk.choose_crosswalk` takes them.
        own_names: Structures are those of equal names, even where a crosswalk is shipped: for a
            bundle that was trained on the data set itself.
        tolerance_mm: How far surfaces may lie apart for NSD; 3 mm is TotalSegmentator's.
        seed: Of the bootstrap.
        device: Where the network runs.
        window: How the sliding window moves.
        keep_predictions: False removes the label maps once all is written.
        command: What the user typed, for the report.
    """

    only: str | Sequence[str] = "all"
    crosswalks: tuple[str, ...] = ()
    own_names: bool = False
    tolerance_mm: float = 3.0
    seed: int = 0
    device: str = "cpu"
    window: WindowOptions = field(default_factory=WindowOptions)
    keep_predictions: bool = True
    command: str = ""


def transfer(
    bundle: Bundle | str | Path,
    datasets: Sequence[RawDataset],
    out: Path,
    options: TransferOptions | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> tuple[DatasetScore, ...]:
    """Predict and score the chosen cases of every data set, and report.

    The same call again continues where it was stopped and predicts nothing twice.

    Args:
        bundle: A bundle or its folder.
        datasets: Labelled data sets of distinct names.
        out: Folder for predictions and scores.
        options: How.
        on_progress: Called after each case with cases done, all cases and the case id.

    Returns:
        Scores per data set, as written.

    Raises:
        BundleError: The bundle cannot be used.
        ConfigError: A crosswalk cannot be used.
        DataError: Nothing can be scored in a data set; or, once all others are scored and
            written, some case failed.
    """
    options = options or TransferOptions()
    if not isinstance(bundle, Bundle):
        bundle = read_bundle(bundle)
    names = [dataset.name for dataset in datasets]
    if len(set(names)) < len(names):
        raise DataError(f"data sets {', '.join(names)}: two have one name; rename a folder")
    chosen = [choose_cases(dataset, options.only) for dataset in datasets]
    matchings = [_match(dataset, bundle, options) for dataset in datasets]
    predictor = load_predictor(bundle, options.device, options.window)

    total, done = sum(map(len, chosen)), 0
    scores = []
    for dataset, matching, cases in zip(datasets, matchings, chosen, strict=True):
        evaluation = _Evaluation(bundle, predictor, dataset, matching, options, out / dataset.name)
        results: list[CaseScore | LeftOut] = []
        for case in cases:
            if case.label is not None:
                results.append(evaluation.attempt(case))
            done += 1
            if on_progress is not None:
                on_progress(done, total, case.case_id)
        skipped = tuple(LeftOut(c.case_id, "has no reference") for c in cases if c.label is None)
        scores.append(evaluation.conclude(results, skipped))
    write_cases_csv(out / "cases.csv", scores)
    write_report(
        out / "report.html",
        Run(bundle, tuple(scores), options.tolerance_mm, options.seed, options.command),
    )
    if not options.keep_predictions:
        for dataset in datasets:
            shutil.rmtree(out / dataset.name / PREDICTIONS, ignore_errors=True)
    _raise_for_failures(scores)
    return tuple(scores)


def choose_cases(dataset: RawDataset, only: str | Sequence[str]) -> tuple[RawCase, ...]:
    """Return the cases of a data set that `only` names (see `TransferOptions`).

    Raises:
        DataError: It names none, or an id that the data set lacks.
    """
    if only == "all":
        return dataset.cases
    if isinstance(only, str):
        if only not in SPLITS:
            raise DataError(f"split {only!r}: choose all, {', '.join(SPLITS)} or case ids")
        cases = tuple(case for case in dataset.cases if case.split == only)
        if not cases:
            raise DataError(f"data set {dataset.name}: declares no {only} cases; choose all or ids")
        return cases
    known = {case.case_id: case for case in dataset.cases}
    for case_id in only:
        if case_id not in known:
            raise DataError(f"data set {dataset.name}: has no case {case_id}; see its file names")
    return tuple(known[case_id] for case_id in sorted(set(only)))


def _match(dataset: RawDataset, bundle: Bundle, options: TransferOptions) -> Matching:
    crosswalk = None if options.own_names else choose_crosswalk(dataset.name, options.crosswalks)
    matching = match_labels(dataset.labels, bundle.labels, crosswalk, dataset.ignore_label)
    if matching.scored:
        return matching
    if not matching.unscored:
        raise DataError(
            f"data set {dataset.name}: names no structure; add labels.json or give --crosswalk"
        )
    raise DataError(
        f"data set {dataset.name}: none of its structures ({', '.join(matching.unscored)}) can be "
        f"scored; give --crosswalk, or name them as in {bundle.folder / LABELS}"
    )


@dataclass(frozen=True)
class _Evaluation:
    """One bundle on one data set, results below `folder`."""

    bundle: Bundle
    predictor: Predictor
    dataset: RawDataset
    matching: Matching
    options: TransferOptions
    folder: Path

    def attempt(self, case: RawCase) -> CaseScore | LeftOut:
        try:
            return self._score(case)
        except CASE_ERRORS as error:
            return LeftOut(case.case_id, str(error) or type(error).__name__)

    def conclude(
        self, results: Sequence[CaseScore | LeftOut], skipped: tuple[LeftOut, ...]
    ) -> DatasetScore:
        cases = tuple(result for result in results if isinstance(result, CaseScore))
        score = DatasetScore(
            self.dataset,
            self.matching,
            cases,
            failures=tuple(result for result in results if isinstance(result, LeftOut)),
            skipped=skipped,
            means=summarise(self.matching, cases, self.options.seed),
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {"tolerance_mm": self.options.tolerance_mm, "seed": self.options.seed}
        write_summary(self.folder / "summary.json", score, self.bundle, settings)
        return score

    def _score(self, case: RawCase) -> CaseScore:
        image, reference = read_case(case, self.dataset)
        path = self.folder / PREDICTIONS / f"{case.case_id}.nii.gz"
        counts, surfaces = score_case(
            reference.array[0],
            self._prediction(case, image, path),
            self.matching,
            self.dataset.ignore_label,
            image.spacing_mm,
            self.options.tolerance_mm,
        )
        annotated = annotated_values(case, self.dataset)
        if annotated is not None:
            numbered = enumerate(self.matching.scored, start=1)
            hidden = [i for i, s in numbered if not set(s.target_values) <= set(annotated)]
            counts, surfaces = leave_out(counts, surfaces, hidden)
        assert case.label is not None
        voxel_ml = prod(image.spacing_mm) / 1000
        return CaseScore(case.case_id, case.label, str(path), counts, surfaces, voxel_ml)

    def _prediction(self, case: RawCase, image: Volume, path: Path) -> np.ndarray:
        """The bundle's label values (Z, Y, X), from disk if this very bundle made them before."""
        record = path.with_name(f"{case.case_id}.json")
        if path.is_file() and record.is_file() and record.read_text() == self._made_by(case, path):
            return read_label(path, like=image).array[0]
        label_zyx = self.predictor.predict_volume(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_label(path, label_zyx, like=image, labels=self.bundle.labels)
        atomic_write_text(record, self._made_by(case, path))
        return label_zyx

    def _made_by(self, case: RawCase, path: Path) -> str:
        """The record beside a prediction: all that decides it, and its own checksum."""
        record = {
            "stunet": __version__,
            "bundle_sha256": self.bundle.sha256,
            "window": asdict(self.options.window),
            "sources_sha256": source_hashes(replace(case, label=None)),
            "prediction_sha256": sha256_of(path),
        }
        return json.dumps(record, indent=1) + "\n"


def _raise_for_failures(scores: Sequence[DatasetScore]) -> None:
    failures = [f"{s.dataset.name}/{f.case_id}: {f.message}" for s in scores for f in s.failures]
    if failures:
        cases = len(failures) + sum(len(score.cases) for score in scores)
        raise DataError(
            f"{len(failures)} of {cases} cases failed, the others are scored; repair and run again "
            f"(all are listed in report.html); first {failures[0]}"
        )
