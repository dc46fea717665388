"""What an XML file is made of, for comparing ours with real ones."""

import xml.etree.ElementTree as ET


def paths(path) -> dict[str, set[str]]:
    """Path of every element (tags with namespaces) -> the names of its attributes."""
    found: dict[str, set[str]] = {}

    def walk(element, above):
        place = f"{above}/{element.tag}"
        found.setdefault(place, set()).update(
            k for k in element.attrib if "schemaLocation" not in k
        )
        for child in element:
            walk(child, place)

    walk(ET.parse(path).getroot(), "")
    return found


def assert_known(ours, real, *, but=()):
    """Every element of ours exists in the real file, and has only attributes that it has there."""
    ours, real = paths(ours), paths(real)
    strange = [p for p in ours if p not in real and not any(b in p for b in but)]
    assert not strange, strange
    wrong = {p: ours[p] - real[p] for p in ours if p in real and ours[p] - real[p]}
    assert not wrong, wrong
