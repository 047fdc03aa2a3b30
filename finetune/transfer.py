"""Direct inference: how well a bundle segments data sets that it has not seen, as it is.

Each case is predicted on its own grid in world space and compared with its reference there. What
is written, per data set, below `OUT/NAME/`:

    predictions/CASE.nii.gz   all structures of the bundle, under the bundle's values
    predictions/CASE.json     what made it; a prediction is reused only while this still holds
    cases.csv                 one row per case and structure
    summary.json              the means, in nnU-Net's shape
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from finetune.matching import Matching, match_labels
from finetune.summary import CaseScore, DatasetScore, Failure, write_cases_csv, write_summary
from stunet import __version__
from stunet.bundle import LABELS, Bundle, load_predictor, read_bundle
from stunet.errors import DataError, StunetError
from stunet.inference.predictor import Predictor, WindowOptions
from stunet.io.atomic import atomic_write_text
from stunet.io.raw_case import read_case, sha256_of, source_hashes
from stunet.io.volume import Volume, read_label, write_label
from stunet.metrics.dice import ClassCounts, count_classes
from stunet.types import RawCase, RawDataset

SPLITS = ("train", "val", "test")
# What one case may die of without the others: bad files, a full disk, a volume too large.
CASE_ERRORS = (StunetError, OSError, MemoryError, torch.OutOfMemoryError)


def transfer(
    bundle: Bundle | str | Path,
    datasets: Sequence[RawDataset],
    out: Path,
    only: str | Sequence[str] = "all",
    device: str = "cpu",
    window: WindowOptions | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> tuple[DatasetScore, ...]:
    """Predict and score the chosen cases of every data set.

    The same call again continues where it was stopped and predicts nothing twice.

    Args:
        bundle: A bundle or its folder.
        datasets: Labelled data sets of distinct names.
        out: Folder for predictions and scores.
        only: `all`, one split (`train`, `val`, `test`) as the data set declares it, or case ids.
        device: Where the network runs.
        window: How the sliding window moves.
        on_progress: Called after each case with cases done, all cases and the case id.

    Returns:
        Scores per data set, as written.

    Raises:
        BundleError: The bundle cannot be used.
        DataError: Nothing can be scored in a data set; or, once all others are scored and
            written, some case failed.
    """
    if not isinstance(bundle, Bundle):
        bundle = read_bundle(bundle)
    names = [dataset.name for dataset in datasets]
    if len(set(names)) < len(names):
        raise DataError(f"data sets {', '.join(names)}: two have one name; rename a folder")
    chosen = [choose_cases(dataset, only) for dataset in datasets]
    matchings = [_match(dataset, bundle) for dataset in datasets]
    predictor = load_predictor(bundle, device, window)

    total, done = sum(map(len, chosen)), 0
    scores = []
    for dataset, matching, cases in zip(datasets, matchings, chosen, strict=True):
        evaluation = _Evaluation(bundle, predictor, dataset, matching, out / dataset.name)
        results = []
        for case in cases:
            results.append(evaluation.attempt(case))
            done += 1
            if on_progress is not None:
                on_progress(done, total, case.case_id)
        scores.append(evaluation.conclude(results))
    _raise_for_failures(scores)
    return tuple(scores)


def choose_cases(dataset: RawDataset, only: str | Sequence[str]) -> tuple[RawCase, ...]:
    """Return the cases of a data set that `only` names (see `transfer`).

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


def _match(dataset: RawDataset, bundle: Bundle) -> Matching:
    matching = match_labels(dataset.labels, bundle.labels, dataset.ignore_label)
    if not matching.scored:
        raise DataError(
            f"data set {dataset.name}: none of its structures ({', '.join(matching.unscored)}) is "
            f"a class of the bundle; rename them as in {bundle.folder / LABELS}"
        )
    return matching


@dataclass(frozen=True)
class _Evaluation:
    """One bundle on one data set, results below `folder`."""

    bundle: Bundle
    predictor: Predictor
    dataset: RawDataset
    matching: Matching
    folder: Path

    def attempt(self, case: RawCase) -> CaseScore | Failure:
        try:
            return self._score(case)
        except CASE_ERRORS as error:
            return Failure(case.case_id, str(error) or type(error).__name__)

    def conclude(self, results: Sequence[CaseScore | Failure]) -> DatasetScore:
        score = DatasetScore(
            self.dataset,
            self.matching,
            cases=tuple(result for result in results if isinstance(result, CaseScore)),
            failures=tuple(result for result in results if isinstance(result, Failure)),
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_cases_csv(self.folder / "cases.csv", score)
        write_summary(self.folder / "summary.json", score, self.bundle)
        return score

    def _score(self, case: RawCase) -> CaseScore:
        image, reference = read_case(case, self.dataset)
        path = self.folder / "predictions" / f"{case.case_id}.nii.gz"
        prediction_zyx = self._prediction(case, image, path)
        assert case.label is not None
        return CaseScore(
            case_id=case.case_id,
            reference_file=case.label,
            prediction_file=str(path),
            counts=self._counts(reference.array[0], prediction_zyx),
        )

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
            "window": asdict(self.predictor.window),
            "sources_sha256": source_hashes(replace(case, label=None)),
            "prediction_sha256": sha256_of(path),
        }
        return json.dumps(record, indent=1) + "\n"

    def _counts(self, reference_zyx: np.ndarray, prediction_zyx: np.ndarray) -> ClassCounts:
        """Both maps renumbered to 0 for everything else and i for the i-th scored structure."""
        scored = self.matching.scored
        ignored = len(scored) + 1
        targets = {s.target_value: i for i, s in enumerate(scored, start=1)}
        if self.dataset.ignore_label is not None:
            targets[self.dataset.ignore_label] = ignored
        predicted = {s.bundle_value: i for i, s in enumerate(scored, start=1)}
        return count_classes(
            _renumber(prediction_zyx, predicted),
            _renumber(reference_zyx, targets),
            classes=len(scored) + 1,
            ignore_label=ignored,
        )


def _renumber(label_zyx: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    """Replace label values by a table; what is not in it becomes 0."""
    table = np.zeros(max(int(label_zyx.max()), *values) + 1, dtype=np.uint16)
    for old, new in values.items():
        table[old] = new
    return table[label_zyx]


def _raise_for_failures(scores: Sequence[DatasetScore]) -> None:
    failures = [f"{s.dataset.name}/{f.case_id}: {f.message}" for s in scores for f in s.failures]
    if failures:
        cases = len(failures) + sum(len(score.cases) for score in scores)
        raise DataError(
            f"{len(failures)} of {cases} cases failed, the others are scored; repair and run again "
            f"(all are listed in summary.json); first {failures[0]}"
        )
