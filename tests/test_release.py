"""One version in one place, and a check that refuses a release which is not in order."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import satfuse
from tests.command import command

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "deploy/release_check.py"
CHECKED = (
    "satfuse/__init__.py",
    "CHANGELOG.md",
    "CITATION.cff",
    "pyproject.toml",
    "deploy/compose.yaml",
    "deploy/kubernetes/satfuse.yaml",
)
TAG = f"v{satfuse.__version__}"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("release_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def released(check, tmp_path):
    """A repository with the files that are checked, as they are at a release."""
    for name in CHECKED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
        rewrite(tmp_path / name, check.PLACEHOLDER, "https://satfuse.example.com")
    changelog = tmp_path / "CHANGELOG.md"
    heading = f"## {satfuse.__version__}"
    dated = re.sub(
        rf"(?m)^{re.escape(heading)}.*$", f"{heading} (2026-01-31)", changelog.read_text()
    )
    changelog.write_text(dated)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "--all"], cwd=tmp_path, check=True)
    return tmp_path


def rewrite(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def test_every_file_has_the_version_of_the_package(check):
    assert command("--version").out == f"satfuse {satfuse.__version__}\n"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == satfuse.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "satfuse/__init__.py"
    assert check.version_of(ROOT) == satfuse.__version__
    assert not [finding for finding in check.findings(ROOT, TAG) if "version" in finding]


def test_a_release_in_order_passes(check, released):
    assert list(check.findings(released, TAG)) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("CITATION.cff", satfuse.__version__, "9.9", "CITATION.cff: version 9.9 is not"),
        (
            "deploy/kubernetes/satfuse.yaml",
            f"satfuse:{satfuse.__version__}",
            "satfuse:9.9",
            "satfuse.yaml: version 9.9 is not",
        ),
        ("CHANGELOG.md", " (2026-01-31)", " (unreleased)", "needs its date"),
        ("CHANGELOG.md", f"## {satfuse.__version__}", "## 9.9", "has no section for"),
        ("pyproject.toml", 'name = "satfuse"', 'name = "{placeholder}"', "is a placeholder"),
    ],
)
def test_what_is_not_in_order_is_named(check, released, name, old, new, message):
    rewrite(released / name, old, new.format(placeholder=check.PLACEHOLDER))
    found = list(check.findings(released, TAG))
    assert found
    assert all(message in finding for finding in found)


def test_another_tag_is_refused(check, released):
    (finding,) = check.findings(released, "v9.9")
    assert finding.startswith("tag v9.9 is not")


def test_the_command_prints_findings_and_fails():
    ended = subprocess.run([sys.executable, SCRIPT, "v9.9"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "tag v9.9 is not" in ended.stdout


def test_the_workflows_run_what_is_run_here():
    """Their form is checked by actionlint and check-jsonschema, see .pre-commit-config.yaml."""
    ci, release = (
        yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
        for name in ("ci", "release")
    )
    assert {"run": ".ci/run"} in ci["jobs"]["everything"]["steps"]
    assert release["jobs"]["test"]["uses"] == "./.github/workflows/ci.yml"
    assert release["jobs"]["packages"]["needs"] == release["jobs"]["image"]["needs"] == "test"
    assert release["jobs"]["test"]["needs"] == "check"
    # nothing but the image's job may write
    assert ci["permissions"] == release["permissions"] == {"contents": "read"}
    writing = [name for name, job in release["jobs"].items() if "permissions" in job]
    assert writing == ["image"]
    assert not [name for name, job in ci["jobs"].items() if "permissions" in job]
