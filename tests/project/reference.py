"""Render the API reference of the public modules: python -m tests.project.reference DIRECTORY."""

import importlib
import sys
import warnings
from pathlib import Path

import pdoc

PUBLIC = ("qmpserver", "qmpserver.standin", "qmpserver.testing", "qmpserver.qapi", "qmpserver.qmp")


def render(directory: Path) -> None:
    """Write one HTML file per module, and an index of them.

    Raises:
        UserWarning: A name does not resolve, or an annotation cannot be evaluated.
    """
    for module in map(importlib.import_module, PUBLIC):
        for name in module.__all__:
            public = getattr(module, name)
            vars(module)[name] = public  # pdoc does not see lazy names
            if isinstance(public, type) and issubclass(public, tuple):
                # The constructor belongs to no module, in which names would resolve.
                public.__new__.__annotations__.clear()
    pdoc.render.configure(docformat="google")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc(*PUBLIC, output_directory=directory)


if __name__ == "__main__":
    render(Path(sys.argv[1]))
