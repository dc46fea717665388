"""The documented command of each sample: runs, prints its facts, writes its picture."""

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio

from benchmarks import samples as command

pytestmark = pytest.mark.samples
DOCUMENT = Path(__file__).parents[2] / "docs" / "samples.md"


@pytest.mark.parametrize(
    "name", ["sweden", "thailand", "ireland", "congo", "coast"]
)  # the quick ones
def test_command_prints_facts_and_draws(samples, tmp_path, capsys, name):
    facts = command.show(name, tmp_path, samples)
    printed = capsys.readouterr().out
    assert all(key in printed and value in printed for key, value in facts.items())
    with rasterio.open(tmp_path / f"{name}.png") as picture:
        image = picture.read()
    assert image.shape[1] > 400 and len(np.unique(image)) > 50


def test_document_names_every_command():
    named = re.findall(r"python -m benchmarks\.samples (\w+)", DOCUMENT.read_text())
    assert sorted(set(named)) == sorted([*command.SHOWN, "all"])
