"""The parts of the build that pyproject.toml cannot express: C, and the package index's page."""

import re
from pathlib import Path

from setuptools import setup

LINK_TO_FILE = re.compile(r"\[([^]]+)\]\((?!https?://)([^)]+)\)")


def index_page(readme: str) -> str:
    """Return the README for the package index: links to files, dead there, become file names."""
    return LINK_TO_FILE.sub(r"\1 (`\2`)", readme)


if __name__ == "__main__":
    setup(
        cffi_modules=["qmpserver/vm/accel/native/build.py:ffibuilder"],
        long_description=index_page(Path("README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
