"""The report: its JSON, tables, page and figures agree with the product."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from skimage.io import imread

from satfuse.validate import validate_product
from satfuse.validate.drawing import make_field_map
from satfuse.validate.figures import quicklook
from satfuse.validate.views import make_views


@pytest.fixture(scope="module")
def report(perfect, scene, truth, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    named = perfect.assign_attrs(id="<b>field & date</b>")
    edges = ((120,), (100, 200))
    return folder, validate_product(named, scene, folder, truth=truth, tile_edges=edges)


def test_json_is_the_returned_result(report):
    folder, result = report
    assert json.loads((folder / "metrics.json").read_text()) == result
    assert result["truth"]["fused"]["rmse"] < 1e-6 < result["truth"]["bicubic"]["rmse"]
    assert result["truth"]["fused"]["psnr_db"] is None  # infinite
    seam = result["seam"]
    assert seam["fused"]["edges"] == 3
    assert seam["fused"]["ratio"] == pytest.approx(seam["guide"]["ratio"], rel=0.2)


def test_page_is_self_contained_and_escaped(report):
    folder, _ = report
    html = (folder / "index.html").read_text()
    tags = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, dict(attrs)))

    Parser().feed(html)
    sources = [attrs["src"] for tag, attrs in tags if "src" in attrs]
    assert len(sources) == 6
    assert all(s.startswith("data:image/png;base64,") for s in sources)
    assert not {"script", "link", "b"} & {tag for tag, _ in tags}
    assert not re.search(r"https?://", html)
    assert "&lt;b&gt;field &amp; date&lt;/b&gt;" in html


def test_tables_have_every_band_and_baseline(report):
    folder, result = report
    text = (folder / "metrics.md").read_text()
    assert all(f"\n| {band} |" in text for band in result["bands"])
    assert all(f"\n| {band} |" in text for band in result["guide_consistency"]["fused"]["bands"])
    assert "| score | fused | bicubic S3 | S2 mixed |" in text
    row = next(line for line in text.splitlines() if line.startswith("| truth SAM deg"))
    fused, bicubic, _ = (float(cell) for cell in row.split("|")[2:5])
    assert fused < 0.01 < bicubic == pytest.approx(result["truth"]["bicubic"]["sam_deg"], abs=1e-3)


def test_figures_are_drawn(report):
    folder, _ = report
    for name in ("quicklook", "composites", "consistency", "spectra", "ndvi", "power"):
        image = imread(folder / f"{name}.png")
        assert image.shape[0] > 300
        assert image[..., :3].std() > 5


def test_few_bands_give_a_shorter_report(perfect, scene, tmp_path):
    result = validate_product(perfect.sel(band=["Oa04", "Oa11"]), scene, tmp_path)
    assert result["ndvi"] == {}
    assert result["truth"] == {}
    assert result["seam"]["fused"]["ratio"] is None
    assert not (tmp_path / "ndvi.png").exists()
    assert (tmp_path / "quicklook.png").exists()


@pytest.mark.parametrize("south_up", [False, True])
def test_panels_show_north_up_under_one_stretch(perfect, scene, south_up):
    """Water is in the south west of all three panels, whichever way the rows run."""
    if south_up:
        perfect = perfect.isel(y=slice(None, None, -1))
        scene = scene.isel(y=slice(None, None, -1), y_coarse=slice(None, None, -1))
    field = make_field_map(make_views(perfect, scene), scene)
    assert field.extent_km == pytest.approx((450, 459, 6472.8, 6480))
    for axis in quicklook(field).axes[:3]:
        (image,) = axis.get_images()
        array = image.get_array()
        top = array if image.origin == "upper" else array[::-1]
        height, width = top.shape[:2]
        south_west = top[int(0.9 * height) :, : width // 3, :3].mean()
        north = top[: height // 2, :, :3].mean()
        assert south_west < 0.3 * north
        assert image.get_extent() == pytest.approx(field.extent_km)
        for line in axis.get_lines():  # the marks of the three pixels are inside
            assert 450 < line.get_xdata()[0] < 459
            assert 6472.8 < line.get_ydata()[0] < 6480


def test_marked_pixels_and_their_coarse_spectra_are_the_same_place(perfect, scene):
    """The spectra below the panels are those of the ground under the marks."""
    figure = quicklook(make_field_map(make_views(perfect, scene), scene))
    marks = figure.axes[2].get_lines()
    for mark, axis in zip(marks, figure.axes[3:6], strict=True):
        column = int((mark.get_xdata()[0] * 1000 - 450000) // 30)
        row = int((6480000 - mark.get_ydata()[0] * 1000) // 30)
        guide, coarse, fused = (line.get_ydata() for line in axis.get_lines())
        np.testing.assert_allclose(fused, perfect["reflectance"].values[0, :, row, column])
        np.testing.assert_allclose(guide, scene["guide"].values[:, row, column])
        np.testing.assert_allclose(coarse, scene["coarse"].values[:, row // 10, column // 10])
