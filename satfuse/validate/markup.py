"""Tables and figures as Markdown, and as one HTML page that needs no other file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

# inside the page, which needs no other file
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;"
    "padding:0 1rem;color:#1a1a1a}"
    "img{max-width:100%;height:auto}"
    "table{border-collapse:collapse;font-size:14px;display:block;overflow-x:auto}"
    "th,td{border-bottom:1px solid #ddd;padding:.25rem .6rem;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}"
    "figure{margin:1.5rem 0}figcaption{color:#555;font-size:14px}"
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A titled table of texts; the first column names the row."""

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class FigureFile:
    """A PNG file and its caption."""

    path: Path
    caption: str


Section = Table | FigureFile


def markdown(title: str, introduction: str, sections: Sequence[Section]) -> str:
    """A report as Markdown, without its figures."""
    lines = [f"# {title}", "", introduction, ""]
    for table in (s for s in sections if isinstance(s, Table)):
        lines += [f"## {table.title}", "", _row(table.header)]
        lines += ["|---" + "|---:" * (len(table.header) - 1) + "|"]
        lines += [*map(_row, table.rows), ""]
    return "\n".join(lines)


def html(title: str, introduction: str, sections: Sequence[Section]) -> str:
    """A report as one HTML page, its sections in order, with the figures embedded."""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><p>{escape(introduction)}</p>"
    )
    body = "".join(_table(s) if isinstance(s, Table) else _figure(s) for s in sections)
    return f"{head}{body}</body></html>"


def text(value: float | None, form: str = "{:.5f}") -> str:
    """A number for a table; "-" where it is None."""
    return "-" if value is None else form.format(value)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(table: Table) -> str:
    head = _cells("th", table.header)
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in table.rows)
    return (
        f"<h2>{escape(table.title)}</h2>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cells(tag: str, cells: Sequence[str]) -> str:
    return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)


def _figure(figure: FigureFile) -> str:
    image = base64.b64encode(figure.path.read_bytes()).decode()
    caption = escape(figure.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{image}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
