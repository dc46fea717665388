"""Tables go into the documents between marks, so that every number in them comes from a command."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def put(text: str, document: str, name: str) -> None:
    """Replace what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` in a document."""
    path = DOCS / document
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, rest = path.read_text().split(begin)
    _, after = rest.split(end)
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def markdown(titles, lines, left=1) -> str:
    """A table whose first `left` columns are words."""
    rule = "|" + "---|" * left + "---:|" * (len(titles) - left)
    return "\n".join(
        [f"| {' | '.join(titles)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)]
    )


def machine() -> str:
    """One line of conditions for below a table."""
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "zarr", "dask", "odc-stac")
    )
    return f"*{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {packages}.*"
