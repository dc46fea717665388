"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of the real sample products; skips the test where it is absent."""
    folder = (ROOT / os.environ.get("SATFUSE_SAMPLE_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real samples at {folder}: set SATFUSE_SAMPLE_DATA")
    return folder
