"""Is it worth starting from these weights? The same budget from them and from scratch, compared.

Every training is an ordinary fine-tuning in a folder of its own below `OUT`:

    ARM-CASES-REPEAT/run       the run folder
    ARM-CASES-REPEAT/bundle    what it exports
    ARM-CASES-REPEAT/scores    its evaluation on held-out cases, as `stunet transfer` writes it
    protocol.json              all results
    report.html                all results for people, in one file

The same call again continues where it was stopped. A run that has finished, here or elsewhere, is
taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from finetune.config import FinetuneConfig
from finetune.protocol_report import write_protocol_report
from finetune.protocol_results import Results, Scored, collect, write_results
from finetune.protocol_trials import Protocol, ProtocolConfig, Trial
from finetune.train import task
from finetune.transfer import TransferOptions, transfer
from stunet.bundle import read_bundle
from stunet.errors import DataError
from stunet.training.data import open_data
from stunet.training.export import export_run
from stunet.training.run_folder import RUN, check_same_run, read_json
from stunet.types import RawDataset

BOOTSTRAP_SEED = 0


def run_protocol(
    protocol: Protocol,
    raw: RawDataset,
    train: Callable[[Trial], None],
    command: str = "",
    on_trial: Callable[[int, Trial], None] = lambda number, trial: None,
) -> Results:
    """Train what is not trained yet, score all, and report.

    Args:
        protocol: From `plan_protocol`.
        raw: The scans that the store was made of.
        train: Trains to the end of the schedule, continuing what is in the run folder.
        command: What the user typed, for the report.
        on_trial: Called before each with its number from 0.

    Raises:
        DataError: A case that shall be scored is not in `raw`, or cannot be scored.
        CheckpointError: A run folder is of another recipe, other data or another bundle.
    """
    _check_raw(protocol, raw)
    scored = []
    for number, trial in enumerate(protocol.trials):
        on_trial(number, trial)
        if not finished(trial):
            train(trial)
        scored.append(_score(trial, raw, protocol.how))
    results = collect(scored, BOOTSTRAP_SEED)
    out = Path(protocol.config.out)
    write_results(out / "protocol.json", results, protocol)
    write_protocol_report(out / "report.html", results, protocol, command)
    return results


def finished(trial: Trial) -> bool:
    """Whether its run has reached the end of the schedule.

    Raises:
        CheckpointError: The run is of another recipe, other data or another bundle.
    """
    if not (trial.run / RUN).exists() or read_json(trial.run, RUN)["state"] != "finished":
        return False
    planned = task(trial.config, open_data(trial.config)).data
    check_same_run(trial.run, trial.config, planned.info, planned.content)
    return True


def _check_raw(protocol: Protocol, raw: RawDataset) -> None:
    held_out = {case_id for trial in protocol.trials for case_id in trial.scored_on}
    missing = sorted(held_out - {case.case_id for case in raw.cases})
    if missing:
        raise DataError(
            f"raw={protocol.how.raw}: has no case {missing[0]}, which the store holds out; give"
            " the scans that the store was made of"
        )


def _score(trial: Trial, raw: RawDataset, how: ProtocolConfig) -> Scored:
    bundle = trial.folder / "bundle"
    if not bundle.exists():  # it appears whole, and a finished run does not change
        export_run(trial.run, bundle, FinetuneConfig)
    options = TransferOptions(
        only=trial.scored_on,
        own_names=True,
        tolerance_mm=how.tolerance_mm,
        seed=BOOTSTRAP_SEED,
        device=how.device,
    )
    # The store's names, which a folder of scans need not tell.
    named = replace(raw, labels=dict(read_bundle(bundle).labels))
    (score,) = transfer(bundle, [named], trial.folder / "scores", options)
    return Scored(trial, score)
