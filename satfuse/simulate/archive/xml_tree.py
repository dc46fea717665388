"""Nested dictionaries to XML files."""

import xml.etree.ElementTree as ET
from pathlib import Path


def write(path: Path, root: ET.Element) -> None:
    """Write an element and all below it as an indented UTF-8 file."""
    ET.indent(root, "  ")
    ET.ElementTree(root).write(path, encoding="UTF-8", xml_declaration=True)


def grow(parent: ET.Element, content) -> ET.Element:
    """Fill an element and return it.

    Parameters
    ----------
    content : a dict of tag -> content makes one child per entry; a list as such a content makes one child per member;
        a tuple (attributes, content) also sets attributes; None leaves the element empty; anything else is its text.
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
