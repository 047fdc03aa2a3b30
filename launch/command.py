"""The command as the user typed it, for what is written to tell where it comes from."""

from __future__ import annotations

import shlex
import sys


def typed_command() -> str:
    """Return the command line, quoted so that it can be pasted into a shell."""
    return shlex.join(["stunet", *sys.argv[1:]])
