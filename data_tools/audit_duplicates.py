"""The same scan twice, within a data set or across: resampled, cropped, windowed or renamed.

Slices with alike spectra propose pairs of scans; sliding one thumbnail over the other decides. A
scan in the training and the test split makes every score on it worthless: that is severe.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import fft

from data_tools.audit_finding import Case, Check, Finding, Severity
from data_tools.audit_thumbnail import Thumbnail

NEIGHBOURS = 3  # slices of other scans that each slice votes for
CANDIDATES = 4  # scans that each scan is compared with
OVERLAP = 0.25  # share of the smaller scan's details that must lie in the other
SAME = 0.7  # correlation of details below which two scans are not one; see docs/audit.md
IDENTICAL = 0.97  # from here on they are, whatever others resemble them
STANDS_OUT = 0.5  # between: Fisher's z above that of the other scans they were compared with
PROMISING = 0.4  # correlation of coarse thumbnails below which fine ones are not looked at
BLOCK = 1024  # slices compared at a time


def duplicate_findings(
    cases: Sequence[Case], thumbs: Sequence[tuple[Thumbnail, ...]]
) -> Iterator[Finding]:
    """Findings over all audited stores together.

    Args:
        cases: All cases.
        thumbs: Their thumbnails.
    """
    scores = {(a, b): similarity(thumbs[a], thumbs[b]) for a, b in sorted(candidates(thumbs))}
    for (a, b), score in scores.items():
        if not _is_same(a, b, scores):
            continue
        first, second = cases[a], cases[b]
        leak = first.split != second.split and "train" in (first.split, second.split)
        where = f" of {second.dataset}" if second.dataset != first.dataset else ""
        splits = f"splits {first.split or 'none'} and {second.split or 'none'}"
        yield Finding(
            Check.DUPLICATES,
            Severity.SEVERE if leak else Severity.WARNING,
            first,
            first.dataset,
            (),
            score,
            "correlation",
            f"shows the same scan as {second.case_id}{where} (correlation {score:.2f}; {splits})",
            "keep one, or put both into one split",
            other=second,
        )


def _is_same(a: int, b: int, scores: Mapping[tuple[int, int], float]) -> bool:
    """Whether two scans are one: alike, and more so than others are like either of them.

    Phantoms and tightly cropped organs are all alike; only the comparison tells copies from them.
    """
    score = scores[a, b]
    if score >= IDENTICAL or score < SAME:
        return score >= IDENTICAL
    others = [s for pair, s in scores.items() if pair != (a, b) and {a, b} & {*pair}]
    usual = min(IDENTICAL, max(0.0, float(np.median(others)))) if others else 0.0
    return math.atanh(score) - math.atanh(usual) >= STANDS_OUT


def candidates(thumbs: Sequence[tuple[Thumbnail, ...]]) -> set[tuple[int, int]]:
    """Pairs (a, b), a < b, of scans with alike slices: a few per scan, however many there are."""
    votes: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for level in {thumb.level for pair in thumbs for thumb in pair}:
        chosen = [
            (scan, thumb.spectra)
            for scan, pair in enumerate(thumbs)
            for thumb in pair
            if thumb.level == level
        ]
        if len(chosen) > 1:
            _vote(chosen, votes)
    pairs = set()
    for scan, others in votes.items():
        for other in sorted(others, key=lambda k: -others[k])[:CANDIDATES]:
            pairs.add((min(scan, other), max(scan, other)))
    return pairs


def _vote(chosen: Sequence[tuple[int, np.ndarray]], votes: dict[int, dict[int, float]]) -> None:
    """Every slice votes for the scans of the slices whose spectra resemble its own most."""
    owner = np.concatenate([np.full(len(spectra), scan) for scan, spectra in chosen])
    features = np.concatenate([spectra for _, spectra in chosen])
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    features /= np.linalg.norm(features, axis=1, keepdims=True) + 1e-6
    shares = 1 / np.bincount(owner)[owner]  # a scan of few slices is heard as well
    for start in range(0, len(owner), BLOCK):
        block = slice(start, start + BLOCK)
        alike = features[block] @ features.T
        alike[owner[block, None] == owner] = -1
        count = min(NEIGHBOURS, alike.shape[1])
        best = np.argpartition(-alike, count - 1, axis=1)[:, :count]
        for row, columns in enumerate(best):
            for column in columns.tolist():
                weight = max(0.0, float(alike[row, column])) ** 2
                scan, other = int(owner[start + row]), int(owner[column])
                votes[scan][other] += weight * shares[start + row]


def similarity(one: Sequence[Thumbnail], other: Sequence[Thumbnail]) -> float:
    """Highest correlation of details over all shifts; -1 without a common scale.

    Coarse thumbnails are tried first, fine ones only if those promise something.
    """
    levels = {thumb.level: thumb.detail_zyx for thumb in one}
    shared = [(levels[b.level], b.detail_zyx) for b in other if b.level in levels]
    score = -1.0
    for a, b in sorted(shared, key=lambda pair: pair[0].size):
        score = _best_correlation(a, b)
        if score < PROMISING:
            break
    return score


def _best_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Over all shifts at which enough of both scans' details overlap."""
    size = [fft.next_fast_len(m + n - 1, real=True) for m, n in zip(a.shape, b.shape, strict=True)]

    def correlate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        spectrum = fft.rfftn(x, size) * np.conj(fft.rfftn(y, size))
        return np.asarray(fft.irfftn(spectrum, size))

    inside_a, inside_b = np.ones_like(a), np.ones_like(b)
    energy_a, energy_b = correlate(a * a, inside_b), correlate(inside_a, b * b)
    least = max(1.0, OVERLAP * min(float((a * a).sum()), float((b * b).sum())))  # 1: no details
    enough = (energy_a >= least) & (energy_b >= least)
    score = correlate(a, b)[enough] / np.sqrt(energy_a[enough] * energy_b[enough])
    return float(score.max(initial=-1.0))
