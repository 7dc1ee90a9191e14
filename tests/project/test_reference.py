"""The API reference renders without a warning and shows every public name."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.reference import PUBLIC


@pytest.mark.slow
def test_reference(tmp_path: Path) -> None:
    """In a process of its own, as CONTRIBUTING.md shows it: nothing is imported before."""
    subprocess.run(
        [sys.executable, "-m", "tests.project.reference", tmp_path],
        cwd=Path(__file__).parents[2],
        timeout=100,
        check=True,
    )
    for name in PUBLIC:
        page = (tmp_path / f"{name.replace('.', '/')}.html").read_text()
        missing = [
            public
            for public in importlib.import_module(name).__all__
            if f'<section id="{public}">' not in page
        ]
        assert missing == []
