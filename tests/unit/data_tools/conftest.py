"""Trees of empty files: enough for whatever only lists a data set."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_tools.ingest import ingest
from stunet.errors import DataError


def _tree(root: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def _refused(root: Path, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        ingest(root)
    assert "\n" not in str(caught.value)


@pytest.fixture
def make_tree() -> Callable[[Path, dict[str, Any]], Path]:
    """Write files below a folder: text as it is, anything else as JSON."""
    return _tree


@pytest.fixture
def assert_refused() -> Callable[[Path, str], None]:
    """Ingesting fails with one line that holds a message."""
    return _refused
