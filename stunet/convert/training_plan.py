"""The plan a checkpoint was trained by: found in its files, and the same in all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stunet.convert.checkpoint import Checkpoint
from stunet.convert.plan import Keys, Plan, difference
from stunet.convert.plan_v1 import parse_v1
from stunet.convert.plan_v2 import parse_v2
from stunet.convert.sources import Sources, read_json_or_pickle
from stunet.errors import CheckpointError


def training_plan(
    sources: Sources,
    checkpoint: Checkpoint,
    record: Mapping[str, Any],
    given: Path | None,
    configuration: str | None,
) -> Plan:
    """The plan to follow; any other that the files hold must say the same.

    Args:
        sources: The files.
        checkpoint: The weights, which may hold a plan (v2).
        record: What lies beside them (v1), which may, too.
        given: A file to take the plan from instead of the one beside the weights.
        configuration: v2: which of the plan, where the weights do not say.

    Raises:
        CheckpointError: There is none, two contradict each other, or as `parse_plan`.
    """
    init = checkpoint.init
    configuration = configuration or init.get("configuration")
    stage = record["init"][5] if len(record.get("init") or ()) > 5 else None
    beside = given or sources.plans
    found = [] if beside is None else [(str(beside), read_json_or_pickle(beside))]
    for holder, file in ((record, sources.record), (init, sources.weights)):
        if isinstance(holder.get("plans"), Mapping):
            found.append((f"{file} (plans)", holder["plans"]))
    if not found:
        wanted = f"{sources.weights.name}.pkl or plans.json"
        raise CheckpointError(
            f"convert {sources.weights}: there is no {wanted} beside it, and weights do not tell "
            "strides, spacing and normalisation; give the plan by --plans"
        )
    plans = [parse_plan(raw, place, configuration, stage) for place, raw in found]
    for (place, _), other in zip(found[1:], plans[1:], strict=True):
        unlike = difference(plans[0], other)
        if unlike:
            raise CheckpointError(
                f"convert {found[0][0]}: is not the plan the weights were trained with, which is "
                f"in {place}: {unlike}"
            )
    return plans[0]


def parse_plan(raw: Any, place: str, configuration: str | None, stage: int | None) -> Plan:
    """Return a plan of either generation.

    Args:
        raw: As JSON has it.
        place: The file it comes from, for messages.
        configuration: v2: which of its configurations, e.g. `3d_fullres`; None: the only one.
        stage: v1: which of its stages; None: the only one.

    Raises:
        CheckpointError: A key is missing, or the plan asks for what this library does not do.
    """
    keys = Keys(raw if isinstance(raw, Mapping) else {}, place)
    try:
        if "configurations" in keys.record:
            return parse_v2(keys, configuration)
        if "normalization_schemes" in keys.record:
            return parse_v1(keys, stage)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"convert {place}: is malformed ({type(error).__name__}: {error}); give the plan by "
            "--plans"
        ) from None
    raise CheckpointError(
        f"convert {place}: is no plan of nnU-Net, which has 'configurations' (v2) or "
        "'normalization_schemes' (v1); give it by --plans"
    )
