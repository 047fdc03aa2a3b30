"""Fixtures that several test folders share."""

from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real licensed scans, laid beside the checkout and never committed."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real scans not at hand: {folder} is absent")
    return folder
