"""Refuse a release whose version, changelog or public address is not in order.

    python deploy/release_check.py          the working tree
    python deploy/release_check.py v0.1.0   also: is it the version of this tag?

The version is `satfuse.__version__`; files that must repeat it are compared with it. Prints one
line per finding, and exits with 1 if there is any.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Stands for the public address until there is one. In two parts, so that replacing it everywhere by
# the real address leaves this line as it is.
PLACEHOLDER = "https://example.org" + "/satfuse"

# Files that repeat the version, and how.
VERSIONS = {
    "CITATION.cff": r"^version: (\S+)$",
    "deploy/compose.yaml": r"^ *image: satfuse:(\S+)$",
    "deploy/kubernetes/satfuse.yaml": r"^ *image: satfuse:(\S+)$",
}


def main() -> None:
    """Check the repository that this file belongs to."""
    tag = sys.argv[1] if len(sys.argv) > 1 else None
    found = list(findings(Path(__file__).parents[1], tag))
    for finding in found:
        sys.stdout.write(f"{finding}\n")
    sys.exit(1 if found else 0)


def findings(root: Path, tag: str | None = None) -> Iterator[str]:
    """Yield what must be mended before a release, one line each.

    Parameters
    ----------
    root : of the repository.
    tag : "v" and the version; None = not tagged yet.
    """
    version = version_of(root)
    if tag is not None and tag != f"v{version}":
        yield f"tag {tag} is not v{version}, the version in satfuse/__init__.py"
    for name, pattern in VERSIONS.items():
        for other in re.findall(pattern, (root / name).read_text(encoding="utf-8"), re.M):
            if other != version:
                yield f"{name}: version {other} is not {version} of satfuse/__init__.py"
    yield from _changelog_findings(root, version)
    for name in _tracked_files_with(root, PLACEHOLDER):
        yield f"{name}: {PLACEHOLDER} is a placeholder; write the public address"


def version_of(root: Path) -> str:
    """`__version__` of the package, without importing it."""
    text = (root / "satfuse" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', text, re.M)
    if match is None:
        raise SystemExit('satfuse/__init__.py has no line __version__ = "..."')
    return match[1]


def _changelog_findings(root: Path, version: str) -> Iterator[str]:
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = re.search(rf"^## {re.escape(version)}\b(.*)$", text, re.M)
    if heading is None:
        yield f"CHANGELOG.md has no section for {version}; add: ## {version} (YYYY-MM-DD)"
    elif not re.fullmatch(r" \(\d{4}-\d\d-\d\d\)", heading[1]):
        yield f"CHANGELOG.md: the section of {version} needs its date: ## {version} (YYYY-MM-DD)"


def _tracked_files_with(root: Path, text: str) -> list[str]:
    """Names of the files under version control that contain a text."""
    command = ["git", "grep", "--files-with-matches", "--fixed-strings", "-I", text]
    grep = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if grep.returncode > 1:  # 1 = no match
        raise SystemExit(f"git grep failed: {grep.stderr.strip()}")
    return grep.stdout.splitlines()


if __name__ == "__main__":
    main()
