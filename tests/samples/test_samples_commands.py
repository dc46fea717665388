"""The documented command of each sample: lists its facts and draws its figure."""

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio

from benchmarks import samples as command

pytestmark = pytest.mark.samples
DOCUMENT = Path(__file__).parents[2] / "docs" / "samples.md"


# the quick ones
@pytest.mark.parametrize("name", ["sweden", "thailand", "ireland", "congo", "coast"])
def test_a_sample_gives_facts_and_a_figure(samples, tmp_path, name):
    facts = command.show(name, tmp_path, samples)
    text = command.listed(name, facts)
    assert all(f"{key}: {value}" in text for key, value in facts.items())
    with rasterio.open(tmp_path / f"{name}.png") as figure:
        image = figure.read()
    assert image.shape[1] > 400
    assert len(np.unique(image)) > 50


def test_the_document_names_every_command():
    names = re.findall(r"python -m benchmarks\.samples (\w+)", DOCUMENT.read_text())
    assert sorted(set(names)) == sorted([*command.SAMPLES, "all"])
