"""The `stunet` command: verbs, errors and exit codes. Each verb imports what it needs when it runs.

Exit codes: 0 done, 1 a bug of ours (traceback), 2 a user error (one line on stderr, traceback with
`--debug`), 70 a rank hung, 75 preempted and saved, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from launch import cli_config, cli_data, cli_launch, cli_run, cli_runs, convert, estimate, profile
from launch.env import check_neighbours
from stunet import __version__
from stunet.errors import CheckpointError, ConfigError, Preempted, StunetError

AGREED = (CheckpointError, ConfigError, Preempted)  # raised by all ranks or by none

app = typer.Typer(
    name="stunet",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Labelled scans in, pre-trained and evaluated segmentation bundle out.",
)
cli_run.register(app)
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_config.app, name="config")
app.add_typer(cli_launch.app, name="launch")
cli_config.register(app)
cli_runs.register(app)
convert.register(app)
estimate.register(app)
profile.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stunet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option(help="Show the traceback of a user error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    if debug:
        os.environ["STUNET_DEBUG"] = "1"  # inherited by the processes that a verb starts


def main() -> None:
    """Run the command line and exit with the documented code."""
    try:
        check_neighbours()
        code = app(standalone_mode=False)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "stunet"
        _fail(f"{error.format_message()} Try '{command} --help'.", 2)
    except StunetError as error:
        if os.environ.get("STUNET_DEBUG"):
            raise
        _fail(_as_told_by_rank(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; the same command continues what can be continued", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    _leave(code if isinstance(code, int) else 0)


def _as_told_by_rank(error: StunetError) -> str:
    """The message; empty on ranks that only repeat what rank 0 says, named on those that do not."""
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0:
        return str(error)
    return "" if isinstance(error, AGREED) else f"rank {rank}: {error}"


def _fail(message: str, code: int) -> NoReturn:
    if message:
        print(f"stunet: {message}", file=sys.stderr, flush=True)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Exit; as a rank without taking the interpreter down piece by piece.

    Threads of the communication library can outlive that and abort a process that has done all its
    work ("terminate called without an active exception", seen once in some hundred ranks).
    """
    if "RANK" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
