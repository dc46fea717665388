"""What the command line prints: results on stdout, as tables or JSON; log lines and progress bars on stderr."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

WIDE = 240  # columns of a table that goes into a file or a pipe
_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def set_up_log(verbose: int) -> None:
    """Log to stderr: warnings of satfuse; with 1 also what it does; with 2 all of that, and what the libraries do."""
    level = _LEVELS[min(verbose, 2)]
    handler = logging.StreamHandler()
    handler.setLevel(level)  # the demo lets satfuse tell more, and prints it itself
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=[handler]
    )
    logging.getLogger().setLevel(logging.INFO if verbose > 1 else logging.WARNING)
    logging.getLogger("satfuse").setLevel(level)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.WARNING if verbose else logging.ERROR)


def note(text: str) -> None:
    """A line for people, on stderr, so that stdout stays clean for machines."""
    print(text, file=sys.stderr)


def show(
    value: dict | list[dict], as_json: bool, columns: dict[str, Callable[[dict], str]] | None = None
) -> None:
    """Print a result.

    Parameters
    ----------
    value : facts by name, or rows of equal keys.
    as_json : as one JSON document in place of lines and tables.
    columns : of a table for people: heading -> text of a row; all keys by default.
    """
    if as_json:
        print(json.dumps(value, indent=1, default=str))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    if isinstance(value, list):
        console.print(_table(value, columns) if value else "nothing found")
        return
    for key, entry in value.items():
        if isinstance(entry, list) and entry and isinstance(entry[0], dict):
            console.print(f"{key}:")
            console.print(_table(entry, columns))
        elif isinstance(entry, dict):
            console.print(
                f"{key}:",
                *(f"\n  {k}: {v}" for k, v in entry.items()),
                sep="",
                soft_wrap=True,
                markup=False,
            )
        else:
            text = ", ".join(map(str, entry)) if isinstance(entry, list | tuple) else entry
            console.print(f"{key}: {text}", soft_wrap=True, markup=False)


def _table(rows, columns):
    columns = columns or {key: lambda row, key=key: str(row[key]) for key in rows[0]}
    grid = Table(*columns)
    for row in rows:
        grid.add_row(*(text(row) for text in columns.values()))
    return grid


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float, float, str], None]]:
    """A bar on stderr while the context lasts, at a terminal only.

    Yields
    ------
    Function to call with what is done, what there is in all, and a word on what is at work.
    """
    with Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=f"{title}: {what}"
        )
