"""Tables are put into the documents between markers, so that each number comes from a command."""

import argparse
import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_VERSIONS = ("torch", "zarr", "dask", "odc-stac")  # packages that decide speed and numbers


def put(text: str, document: str, name: str) -> None:
    """Replace the text between `<!-- begin NAME -->` and `<!-- end NAME -->` in docs/DOCUMENT."""
    path = DOCS / document
    begin = f"<!-- begin {name} -->"
    end = f"<!-- end {name} -->"
    before, remainder = path.read_text().split(begin)
    _, after = remainder.split(end)
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def markdown(titles: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table whose first `left` columns are words, aligned left; the others are numbers."""
    rule = "|" + "---|" * left + "---:|" * (len(titles) - left)
    rows = [f"| {' | '.join(line)} |" for line in (titles, *lines)]
    return "\n".join([rows[0], rule, *rows[1:]])


def machine() -> str:
    """The conditions of a run in one line, to stand below its table."""
    packages = ", ".join(f"{name} {version(name)}" for name in _VERSIONS)
    system = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return f"*{system}, {packages}.*"


def command_parser(description: str | None, document: str) -> argparse.ArgumentParser:
    """Parser of a command that prints a table; `--write` also puts it into docs/DOCUMENT.

    Parameters
    ----------
    description : the module's docstring, printed with its own line breaks.
    document : name of a file in docs.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{document}")
    return parser
