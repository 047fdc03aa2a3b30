"""Rewrite the tables of docs/performance.md: `python -m benchmarks.report --command CMD FILES`.

Each JSON file becomes a table under its own name. Run it where the rows were measured: it also says
on which machine and when.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- rows -->", "<!-- end of rows -->"
HEAD = "| work | ours | peer | unit | ratio | goal | where |\n|---|---|---|---|---|---|---|"


def report(page: str, tables: Mapping[str, Sequence[Mapping[str, Any]]], measured: str) -> str:
    """Return the page with everything between its markers replaced.

    Args:
        page: Markdown that holds both markers.
        tables: Title to rows, as `benchmarks.rows.main` writes them.
        measured: Says where, when and how; goes before the tables.
    """
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    parts = [f"## {title}\n\n{table(rows)}" for title, rows in tables.items()]
    return before + "\n\n".join((BEGIN, measured, *parts, END)) + after


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    return "\n".join((HEAD, *map(_line, rows)))


def _line(row: Mapping[str, Any]) -> str:
    note = f"; {row['note']}" if row.get("note") else ""
    cells = (
        row["work"] + note,
        _number(row["ours"]),
        f"{_number(row['peer'])} ({row['peer_name']})",
        row["unit"],
        f"{_number(row['ratio'])}x",
        "-" if row["goal"] is None else f"{row['goal']:g}x{_verdict(row)}",
        row["where"],
    )
    return f"| {' | '.join(cells)} |"


def _verdict(row: Mapping[str, Any]) -> str:
    return "" if row["ratio"] >= row["goal"] else " **missed**"


def _number(value: float) -> str:
    """Three digits or all before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> str:
    """Return processor and number of cores."""
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def main() -> None:
    """Read the command line and rewrite the page."""
    parser = argparse.ArgumentParser(description="Put measured rows into docs/performance.md.")
    parser.add_argument("--command", required=True, help="what measured them")
    parser.add_argument("files", nargs="+", type=Path, help="JSON rows")
    arguments = parser.parse_args()
    tables = {file.stem.capitalize(): json.loads(file.read_text()) for file in arguments.files}
    measured = f"Measured by `{arguments.command}` on {machine()}, {date.today()}."
    PAGE.write_text(report(PAGE.read_text(), tables, measured))


if __name__ == "__main__":
    main()
