"""What the user sees while a run goes on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[int, Mapping[str, float], str], None]
"""(step reached, numbers measured at it, if any, a sentence about them or "")."""


@contextmanager
def progress(total_steps: int, first_step: int) -> Iterator[Report]:
    """Yield a function to call after every step.

    Args:
        total_steps: Where the run ends.
        first_step: Where it continues.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.description}"), console=console) as bar:
            task = bar.add_task("", total=total_steps, completed=first_step)

            def move(step: int, values: Mapping[str, float], sentence: str) -> None:
                bar.update(task, completed=step)
                if sentence:
                    console.print(sentence)
                if values:
                    bar.update(task, description=_summary(values))

            yield move
    else:

        def say(step: int, values: Mapping[str, float], sentence: str) -> None:
            if values:
                print(f"step {step}/{total_steps}  {_summary(values)}", flush=True)
            if sentence:
                print(sentence, flush=True)

        yield say


def _summary(values: Mapping[str, float]) -> str:
    """The numbers on one line, without those of single structures (`val_dice/liver`)."""
    values = {name: value for name, value in values.items() if "/" not in name}
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
