"""XML files from nested dictionaries."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

Content = Any  # what `grow` takes; recursive, so that a precise type would be unreadable


def write(path: Path, root: ET.Element) -> None:
    """Write an element and its descendants as an indented UTF-8 file."""
    ET.indent(root, "  ")
    ET.ElementTree(root).write(path, encoding="UTF-8", xml_declaration=True)


def grow(parent: ET.Element, content: Content) -> ET.Element:
    """Fill an element and return it.

    Parameters
    ----------
    content : a dict of tag -> content makes one child per entry, and one child per member where
        that content is a list; a tuple (attributes, content) also sets attributes; None leaves the
        element empty; anything else is its text.

    Examples
    --------
    >>> ET.tostring(grow(ET.Element("a"), {"b": [({"unit": "m"}, 10), None]}))
    b'<a><b unit="m">10</b><b /></a>'
    """
    if isinstance(content, tuple):
        attributes, content = content
        parent.attrib.update({k: str(v) for k, v in attributes.items()})
    if isinstance(content, dict):
        for tag, value in content.items():
            for member in value if isinstance(value, list) else [value]:
                grow(ET.SubElement(parent, tag), member)
    elif content is not None:
        parent.text = str(content)
    return parent
