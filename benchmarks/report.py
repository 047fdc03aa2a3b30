"""Rewrite the tables of docs/performance.md from JSON rows: `python -m benchmarks.report FILES`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- rows -->", "<!-- end of rows -->"


def main(files: list[str]) -> None:
    """Put one table with all rows between the page's markers."""
    rows = [row for file in files for row in json.loads(Path(file).read_text())]
    lines = [
        "| work | ours | peer | unit | ratio | goal | where |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        goal = "-" if row["goal"] is None else f"{row['goal']:g}x"
        lines.append(
            f"| {row['work']} | {row['ours']:.1f} | {row['peer']:.1f} ({row['peer_name']}) | "
            f"{row['unit']} | {row['ratio']:.1f}x | {goal} | {row['where']} |"
        )
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text("\n".join([before + BEGIN, *lines, END + after]))


if __name__ == "__main__":
    main(sys.argv[1:])
