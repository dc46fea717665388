"""No requirement of satfuse, of any extra, is under the GPL alone. The LGPL is allowed."""

import re
from email.message import Message
from importlib import metadata

import pytest
from packaging.requirements import Requirement

GPL = re.compile(r"(?<![a-z])A?GPL|(?<!lesser )General Public License", re.IGNORECASE)
OSI = "License :: OSI Approved ::"  # of classifiers
# the exception lets every programme use the libraries that come with the compiler
COMPILER = "GPL-3.0-or-later WITH GCC-exception-3.1"


def licences(package):
    """The licences that a package offers to choose from."""
    expression = package.get("License-Expression", "").replace(COMPILER, "")
    if expression:
        return expression.split(" OR ")
    classifiers = package.get_all("Classifier", [])
    offered = [c.split(" :: ")[-1] for c in classifiers if c.startswith("License ::")]
    text = package.get("License", "").strip()
    return offered or text.splitlines()[:1]


def is_gpl(offered):
    return bool(offered) and all(GPL.search(licence) for licence in offered)


def requirements(name):
    """Installed packages that `name` needs with all its extras -> the chain that requires each."""
    chains = {}
    waiting = [(name, frozenset(metadata.metadata(name).get_all("Provides-Extra")), (name,))]
    done = set()
    while waiting:
        package, extras, chain = waiting.pop(0)
        if (package, extras) in done:
            continue
        done.add((package, extras))
        try:
            required = metadata.requires(package) or []
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed
        chains.setdefault(package, chain)
        for requirement in map(Requirement, required):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in {"", *extras}):
                key = re.sub(r"[-_.]+", "-", requirement.name).lower()
                waiting.append((key, frozenset(requirement.extras), (*chain, key)))
    return chains


def test_no_requirement_is_under_the_gpl():
    chains = requirements("satfuse")
    assert {"numpy", "botocore"} <= set(chains)  # botocore comes with s3fs only
    assert not [
        " -> ".join(chain)
        for name, chain in chains.items()
        if is_gpl(licences(metadata.metadata(name)))
    ]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"License": "GNU General Public License (GPL)"}, True),
        ({"License-Expression": "AGPL-3.0-only"}, True),
        ({"License-Expression": "MIT AND GPL-2.0-only"}, True),
        ({"Classifier": f"{OSI} GNU General Public License v3 (GPLv3)", "License": "free"}, True),
        ({"Classifier": f"{OSI} GNU Lesser General Public License v3 (LGPLv3)"}, False),
        ({"License-Expression": "LGPL-2.1-or-later"}, False),
        ({"License-Expression": "BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1"}, False),
        ({"License-Expression": "GPL-2.0-only OR Artistic-1.0"}, False),
        ({"License": "BSD\n\nAll of the General Public License is quoted here"}, False),
        ({}, False),
    ],
)
def test_what_counts_as_gpl(header, expected):
    package = Message()
    for key, value in header.items():
        package[key] = value
    assert is_gpl(licences(package)) is expected
