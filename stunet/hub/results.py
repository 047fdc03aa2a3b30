"""Results of a transfer evaluation, as a model card tells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stunet.errors import BundleError

SUMMARY = "summary.json"
METRICS = {"Dice": "dice", "NSD": "nsd", "HD95_mm": "hd95_mm"}


def transfer_results(report: Path, bundle_sha256: str) -> dict[str, dict[str, float | None]]:
    """Mean Dice, NSD and HD95 of every data set that `stunet transfer --out REPORT` scored.

    Args:
        report: The folder of the evaluation, or of one data set in it.
        bundle_sha256: The bundle that must have been evaluated.

    Returns:
        `{"NAME transfer": {"dice": ..., "nsd": ..., "hd95_mm": ...}}`.

    Raises:
        BundleError: There are no scores, or they are another bundle's.
    """
    files = sorted((*report.glob(SUMMARY), *report.glob(f"*/{SUMMARY}")))
    if not files:
        raise BundleError(f"report {report}: holds no {SUMMARY}; give the folder of a transfer")
    results = {}
    for file in files:
        try:
            ours = json.loads(file.read_text())["stunet"]
            name, sha256, means = ours["dataset"], ours["bundle_sha256"], ours["foreground_mean"]
            values = {key: _mean(means, metric) for metric, key in METRICS.items()}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BundleError(
                f"report {file}: is no summary of 'stunet transfer' ({error}); write it anew"
            ) from None
        if sha256 != bundle_sha256:
            raise BundleError(
                f"report {file}: is about the bundle {sha256[:12]}, this one is "
                f"{bundle_sha256[:12]}; evaluate this one"
            )
        results[f"{name} transfer"] = values
    return results


def _mean(means: dict[str, Any], metric: str) -> float | None:
    value = float(means[metric]["mean"]) if metric in means else None
    return value if value == value else None
