"""Elements of XML metadata that must be there."""

import xml.etree.ElementTree as ET


def element(parent: ET.Element, path: str) -> ET.Element:
    """Return the first element at an ElementTree path; ValueError where there is none."""
    child = parent.find(path)
    if child is None:
        raise ValueError(f"it has no element {path}")
    return child


def text(parent: ET.Element, path: str) -> str:
    """Return the text of the first element at a path, stripped; ValueError where there is none."""
    content = element(parent, path).text
    if content is None:
        raise ValueError(f"its element {path} is empty")
    return content.strip()


def number(parent: ET.Element, path: str) -> float:
    """Return the number in the first element at a path; ValueError where there is none."""
    return float(text(parent, path))
