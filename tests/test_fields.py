"""The shipped fields, and fields of a user."""

import json

import pytest
from affine import Affine

from satfuse.catalog.fields import field_names, field_of_bbox, load_field
from satfuse.errors import ConfigError, GridError
from satfuse.geometry.grids import lonlat_bbox
from satfuse.pairing import PairRules


def test_the_two_deserts_and_a_field_in_the_north():
    assert {"algeria-5", "mauritania-1"} <= set(field_names())
    algeria, mauritania = (load_field(name) for name in ("algeria-5", "mauritania-1"))
    assert algeria.geobox.shape == (7530, 7530)
    assert str(algeria.geobox.crs) == "EPSG:32631"
    assert algeria.geobox.affine == Affine(10, 0, 388_800, 0, -10, 3_469_800)
    assert mauritania.geobox.shape == (5010, 5040)
    assert str(mauritania.geobox.crs) == "EPSG:32629"
    assert mauritania.geobox.affine == Affine(10, 0, 443_400, 0, -10, 2_170_200)
    assert any(lonlat_bbox(load_field(n).geobox)[1] > 55 for n in field_names())


def test_every_field_has_legal_rules_and_says_why_they_differ():
    for name in field_names():
        field = load_field(name)
        PairRules.from_dict(field.rules)
        assert field.name == name
        assert field.title
        assert bool(field.rules) <= bool(field.rules_reason), name
        assert all(v % 300 == 0 for v in field.geobox.boundingbox)


def test_no_field_without_5_minute_pairs_keeps_the_default_gap():
    for name in ("algeria-5", "mauritania-1"):
        assert PairRules.from_dict(load_field(name).rules).maximum_gap_s >= 18 * 60


def test_a_field_from_a_users_file(tmp_path):
    path = tmp_path / "mine.geojson"
    properties = {
        "name": "mine",
        "title": "my field",
        "crs": "EPSG:32633",
        "bounds_m": [390_010, 5_000_010, 399_000, 5_006_000],
    }
    path.write_text(json.dumps({"type": "Feature", "properties": properties}))
    field = load_field(str(path))
    assert tuple(field.geobox.boundingbox) == (390_000, 5_000_000 - 200, 399_000, 5_006_100)
    assert field.rules == {}


def test_a_field_of_a_box_encloses_it():
    field = field_of_bbox("16.8,58.9,17.0,59.0", "here")
    west, south, east, north = lonlat_bbox(field.geobox)
    assert field.name == "here"
    assert west <= 16.8
    assert south <= 58.9
    assert east >= 17.0
    assert north >= 59.0
    with pytest.raises(GridError, match="reversed"):
        field_of_bbox((17, 58, 16, 59))


def test_unknown_and_malformed_fields_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown field 'atlantis'; known: .*algeria-5"):
        load_field("atlantis")
    with pytest.raises(ConfigError, match="unknown field"):
        load_field(str(tmp_path / "none.geojson"))
    malformed = (b"{", b'{"properties": {"name": "x"}}', b'{"properties": []}', b"[1]", b"\xff\xfe")
    for content in malformed:
        (tmp_path / "bad.geojson").write_bytes(content)
        with pytest.raises(ConfigError, match="malformed"):
            load_field(str(tmp_path / "bad.geojson"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../../etc"}, r"malformed.*name '\.\./\.\./etc' may hold only"),
        ({"name": 5}, "malformed"),
        ({"crs": "EPSG:99999"}, "malformed.*EPSG:99999.*unknown"),
        ({"crs": "EPSG:4326"}, "malformed.*degree"),
        ({"bounds_m": [9000, 0, 300, 3000]}, "malformed.*reversed"),
        ({"bounds_m": [0, 0, 3000]}, "malformed"),
        ({"bounds_m": [0, 0, 3000, "north"]}, "malformed"),
        ({"rules": [1]}, "malformed"),
    ],
)
def test_field_files_that_cannot_be_used(tmp_path, change, words):
    properties = {
        "name": "mine",
        "title": "mine",
        "crs": "EPSG:32633",
        "bounds_m": [0, 0, 3000, 3000],
        **change,
    }
    (tmp_path / "bad.geojson").write_text(json.dumps({"properties": properties}))
    with pytest.raises(ConfigError, match=words):
        load_field(str(tmp_path / "bad.geojson"))
