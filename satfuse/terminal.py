"""What the command line prints: results on stdout, log lines and progress bars on stderr.

Results are tables or JSON.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

WIDE = 240  # columns of a table that goes into a file or a pipe
_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)  # of satfuse, by the number of -v

Row = dict[str, Any]
Columns = dict[str, Callable[[Row], str]]  # heading -> text of a row


def set_up_log(verbose: int) -> None:
    """Log to stderr.

    Parameters
    ----------
    verbose : 0 logs the warnings of satfuse and the address of the Dask dashboard, 1 also its
        steps, 2 all of that and what the libraries do.
    """
    level = _LEVELS[min(verbose, 2)]
    handler = logging.StreamHandler()
    handler.setLevel(level)  # the demo lowers the level of satfuse's logger, and prints itself
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=[handler]
    )
    logging.getLogger().setLevel(logging.INFO if verbose > 1 else logging.WARNING)
    logging.getLogger("satfuse").setLevel(level)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.WARNING if verbose else logging.ERROR)
    cluster = logging.getLogger("satfuse.cluster")
    if not cluster.handlers:  # the address of the Dask dashboard is shown without -v, too
        cluster.addHandler(logging.StreamHandler())
        cluster.setLevel(logging.INFO)
        cluster.propagate = False


def note(text: str) -> None:
    """Print a human-readable line on stderr, so that stdout stays machine-readable."""
    print(text, file=sys.stderr)


def show(value: Row | list[Row], as_json: bool, columns: Columns | None = None) -> None:
    """Print a result.

    Parameters
    ----------
    value : facts by name, or rows of equal keys.
    as_json : as one JSON document instead of human-readable lines and tables.
    columns : of the human-readable table: heading -> text of a row; all keys by default.
    """
    if as_json:
        print(json.dumps(value, indent=1, default=str))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    if isinstance(value, list):
        console.print(_table(value, columns) if value else "nothing found")
        return
    for name, fact in value.items():
        _show_fact(console, name, fact, columns)


def _show_fact(console: Console, name: str, fact: object, columns: Columns | None) -> None:
    """Print one fact: a table of rows, indented lines of a dict, or one line."""
    if isinstance(fact, list) and fact and isinstance(fact[0], dict):
        console.print(f"{name}:")
        console.print(_table(fact, columns))
        return
    if isinstance(fact, dict):
        text = "".join(f"\n  {key}: {entry}" for key, entry in fact.items())
        console.print(f"{name}:{text}", soft_wrap=True, markup=False)
        return
    text = ", ".join(map(str, fact)) if isinstance(fact, list | tuple) else str(fact)
    console.print(f"{name}: {text}", soft_wrap=True, markup=False)


def _table(rows: list[Row], columns: Columns | None) -> Table:
    columns = columns or {key: _text_of(key) for key in rows[0]}
    table = Table(*columns)
    for row in rows:
        table.add_row(*(text(row) for text in columns.values()))
    return table


def _text_of(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key])


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float, float, str], None]]:
    """Show a bar on stderr while the context lasts, at a terminal only.

    Yields
    ------
    Function to call with the amount done, the total amount, and a description of the current step.
    """
    with Progress(
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),  # results in a pipe must not go to the bar's stderr
    ) as bar:
        task = bar.add_task(title, total=None)

        def update(done: float, total: float, step: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{title}: {step}")

        yield update
