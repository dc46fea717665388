"""Tables and pictures as Markdown and as one HTML page that needs nothing else."""

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}"
    "img{max-width:100%;height:auto}table{border-collapse:collapse;font-size:14px;display:block;overflow-x:auto}"
    "th,td{border-bottom:1px solid #ddd;padding:.25rem .6rem;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}figure{margin:1.5rem 0}figcaption{color:#555;font-size:14px}"
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A titled table of texts; the first column names the row."""

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG file and what it shows."""

    path: Path
    caption: str


def markdown(title: str, introduction: str, blocks: list[Table | Picture]) -> str:
    """A report as Markdown, without its pictures."""
    lines = [f"# {title}", "", introduction, ""]
    for table in (b for b in blocks if isinstance(b, Table)):
        lines += [f"## {table.title}", "", "| " + " | ".join(table.header) + " |"]
        lines += ["|---" + "|---:" * (len(table.header) - 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows] + [""]
    return "\n".join(lines)


def html(title: str, introduction: str, blocks: list[Table | Picture]) -> str:
    """A report as one HTML page, its blocks in order, pictures inside."""
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><p>{escape(introduction)}</p>"
    )
    return (
        head
        + "".join(_table(b) if isinstance(b, Table) else _figure(b) for b in blocks)
        + "</body></html>"
    )


def text(value, form: str = "{:.5f}") -> str:
    """A number for a table; "-" where it is None."""
    return "-" if value is None else form.format(value)


def _table(table):
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return f"<h2>{escape(table.title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figure(picture):
    image = base64.b64encode(picture.path.read_bytes()).decode()
    caption = escape(picture.caption)
    return f'<figure><img alt="{caption}" src="data:image/png;base64,{image}"><figcaption>{caption}</figcaption></figure>'
