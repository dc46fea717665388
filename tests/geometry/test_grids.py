"""Grids: the 300 m lattice, bounding boxes, nesting."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from satfuse.errors import GridError
from satfuse.geometry.grids import (
    coarse_geobox,
    geobox_of_bbox,
    lonlat_bbox,
    nesting_ratio,
    parse_bbox,
    snap_geobox,
    utm_crs,
)


@pytest.mark.parametrize(
    ("bounds", "crs", "fine", "coarse"),
    [
        ((388800, 3394500, 464100, 3469800), "EPSG:32631", (7530, 7530), (251, 251)),
        ((443400, 2120100, 493800, 2170200), "EPSG:32629", (5010, 5040), (167, 168)),
    ],
)
def test_snapped_fields_have_the_stated_grids(bounds, crs, fine, coarse):
    geobox = snap_geobox(crs, *bounds)
    assert tuple(geobox.boundingbox) == bounds
    assert geobox.shape == fine
    assert geobox.affine == Affine(10, 0, bounds[0], 0, -10, bounds[3])
    nested = coarse_geobox(geobox, 30)
    assert nested.shape == coarse
    assert nested.affine == Affine(300, 0, bounds[0], 0, -300, bounds[3])
    assert nesting_ratio(geobox, nested) == 30


edge = st.floats(2e5, 8e5, allow_nan=False)
size = st.floats(0.5, 20_000)


@given(edge, edge, size, size, st.sampled_from([10, 20, 60, 100, 300]))
def test_snapping_covers_the_box_by_less_than_one_lattice_step(
    left, bottom, width, height, resolution
):
    box = snap_geobox(
        "EPSG:32633", left, bottom, left + width, bottom + height, resolution=resolution
    ).boundingbox
    assert all(v % 300 == 0 for v in box)
    assert box.left - 1e-3 <= left < box.left + 300.001
    assert box.bottom - 1e-3 <= bottom < box.bottom + 300.001
    assert box.right - 300.001 < left + width <= box.right + 1e-3
    assert box.top - 300.001 < bottom + height <= box.top + 1e-3


@given(st.floats(-179, 178), st.floats(-79, 82), st.floats(0.01, 0.5))
def test_geobox_of_a_box_encloses_it(west, south, extent):
    bbox = (west, south, west + extent, south + extent)
    geobox = geobox_of_bbox(bbox, resolution=300)
    w, s, e, n = lonlat_bbox(geobox)
    tiny = 1e-9
    assert w <= west + tiny
    assert s <= south + tiny
    assert e >= west + extent - tiny
    assert n >= south + extent - tiny
    assert str(geobox.crs) == utm_crs(west + extent / 2, south + extent / 2)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40))
def test_coarse_grid_nests(rows, columns, ratio):
    transform = Affine(10, 0, 300_000, 0, -10, 6_000_000)
    fine = GeoBox((rows * ratio, columns * ratio), transform, "EPSG:32633")
    coarse = coarse_geobox(fine, ratio)
    assert coarse.boundingbox == fine.boundingbox
    assert nesting_ratio(fine, coarse) == ratio
    fine_centres = [fine.affine * (j + 0.5, i + 0.5) for i in range(ratio) for j in range(ratio)]
    assert np.allclose(np.mean(fine_centres, axis=0), coarse.affine * (0.5, 0.5))


def test_grids_that_do_not_nest_are_refused_with_the_cause():
    fine = snap_geobox("EPSG:32633", 300_000, 6_000_000, 306_000, 6_006_000)
    coarse = coarse_geobox(fine, 30)
    with pytest.raises(GridError, match="does not divide"):
        coarse_geobox(fine, 7)
    for ratio in (2.5, 0, -10, float("nan"), "30", None):
        with pytest.raises(GridError, match="does not divide"):
            coarse_geobox(fine, ratio)
    with pytest.raises(GridError, match="align"):
        nesting_ratio(fine, coarse.translate_pix(0.5, 0))
    with pytest.raises(GridError, match="do not cover"):
        nesting_ratio(fine, coarse[:-1, :])
    with pytest.raises(GridError, match="one integer"):
        nesting_ratio(fine, GeoBox((17, 17), fine.affine @ Affine.scale(35.3), fine.crs))
    with pytest.raises(GridError, match="reproject"):
        nesting_ratio(fine, GeoBox(coarse.shape, coarse.affine, "EPSG:32634"))
    with pytest.raises(GridError, match="lattice"):
        snap_geobox("EPSG:32633", 0, 0, 300, 300, resolution=70)


@pytest.mark.parametrize(
    ("bbox", "words"),
    [
        ("1,2,3", "four numbers"),
        ("a,b,c,d", "four numbers"),
        (None, "four numbers"),
        ((2, 50, 1, 51), "antimeridian"),
        ((179, 50, -179, 51), "antimeridian"),
        ((1, 51, 2, 50), "reversed"),
        ((1, 50, 1, 51), "empty"),
        ((1, 50, 400, 51), "outside the world"),
        ((1, -95, 2, 51), "outside the world"),
        ((1, float("nan"), 2, 51), "not finite"),
    ],
)
def test_invalid_boxes_are_refused_with_the_cause(bbox, words):
    with pytest.raises(GridError, match=words):
        parse_bbox(bbox)


@pytest.mark.parametrize(
    "bbox", ["-180,-80,180,80", "10,-90,10.5,-89", "10,83.9,11,85", "3,40,9.5,41"]
)
def test_a_box_that_fits_no_utm_zone_is_refused(bbox):
    """The whole world would become a strip of 334 km by 39,000 km."""
    parse_bbox(bbox)
    with pytest.raises(GridError, match=r"fits no UTM zone.*split"):
        geobox_of_bbox(bbox)


@pytest.mark.parametrize(
    ("crs", "box", "words"),
    [
        ("EPSG:99999", (0, 0, 300, 300), "unknown"),
        (None, (0, 0, 300, 300), "unknown"),
        ("EPSG:4326", (1, 2, 3, 4), "in degree; use a projected"),
        ("EPSG:2263", (0, 0, 300, 300), "in US survey foot"),
        ("EPSG:32633", (300, 0, 0, 300), "reversed"),
        ("EPSG:32633", (0, 300, 300, 300), "empty"),
        ("EPSG:32633", (0, 0, float("nan"), 300), "not finite"),
        ("EPSG:32633", (0, 0, float("inf"), 300), "not finite"),
    ],
)
def test_boxes_that_cannot_be_snapped_are_refused(crs, box, words):
    with pytest.raises(GridError, match=words):
        snap_geobox(crs, *box)


def test_a_box_may_be_text():
    assert parse_bbox("1.5,-2,3,4") == (1.5, -2.0, 3.0, 4.0)


def test_lonlat_bbox_encloses_every_corner():
    geobox = snap_geobox("EPSG:32635", 200_000, 7_000_000, 500_000, 7_100_000)
    west, south, east, north = lonlat_bbox(geobox)
    x, y = np.meshgrid(np.linspace(2e5, 5e5, 20), np.linspace(7.0e6, 7.1e6, 20))
    lon, lat = Transformer.from_crs("EPSG:32635", "EPSG:4326", always_xy=True).transform(x, y)
    assert west <= lon.min()
    assert east >= lon.max()
    assert south <= lat.min() + 1e-6
    assert north >= lat.max() - 1e-6
