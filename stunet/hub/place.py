"""Where a bundle may lie: a folder, a repository of the Hugging Face Hub, any other URL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from stunet.errors import BundleError

SCHEME = "hf://"
REPOSITORY = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^@\s]+))?")


@dataclass(frozen=True)
class HubPlace:
    """A model repository of the Hub.

    Attributes:
        repository: `user/name`.
        revision: A branch, a tag or a commit; None: the main branch.
    """

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, place: str) -> Self:
        """Read `hf://user/name` or `hf://user/name@revision`.

        Raises:
            BundleError: It is neither.
        """
        found = REPOSITORY.fullmatch(place)
        if found is None:
            raise BundleError(f"{place}: is no hub address; write hf://USER/NAME or with @REVISION")
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_hub(place: str | Path) -> bool:
    """Whether a place is an address on the Hub."""
    return str(place).startswith(SCHEME)
