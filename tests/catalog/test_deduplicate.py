import pystac
import pytest

from satfuse.catalog.deduplicate import baseline_of, deduplicate
from satfuse.catalog.specs import load_catalog
from tests.catalog import own_items as own


def items(*features):
    return [pystac.Item.from_dict(f) for f in features]


def kept(candidates, sensor, catalog="cdse"):
    collections = load_catalog(catalog).collections[sensor]
    return [i.id for i in deduplicate(candidates, sensor, collections)]


def test_the_highest_baseline_wins_whatever_the_order():
    old, new = items(own.cdse_s2(baseline="02.14", made="T235959"), own.cdse_s2(baseline="05.10"))
    assert kept([old, new], "sentinel2") == kept([new, old], "sentinel2") == [new.id]


def test_the_newest_processing_of_one_baseline_wins():
    early, late = items(own.cdse_s2(made="T120000"), own.cdse_s2(made="T180000"))
    assert kept([late, early], "sentinel2") == [late.id]


@pytest.mark.parametrize("milliseconds", [563, 0])
def test_earth_search_sequences_differ_by_a_millisecond(milliseconds):
    """0 ms: the older sequence is in the previous second."""
    newer = f"2024-06-01T09:36:44.{milliseconds:03d}Z"
    older = "2024-06-01T09:36:44.562Z" if milliseconds else "2024-06-01T09:36:43.999Z"
    candidates = items(
        own.earth_s2(sequence=0, baseline="02.14", time=older), own.earth_s2(time=newer)
    )
    assert kept(candidates, "sentinel2", "earth-search") == ["S2A_35VLF_20240601_1_L2A"]


def test_tiles_platforms_days_and_datastrips_are_different_acquisitions():
    candidates = items(
        own.cdse_s2(),
        own.cdse_s2("35VLG"),
        own.cdse_s2(platform="b"),
        own.cdse_s2(day="2024-06-11"),
        own.cdse_s2(strip="T093702", made="T150000"),
    )
    assert len(kept(candidates, "sentinel2")) == 5


def test_ntc_wins_over_stc_even_when_stc_was_made_later():
    ntc, stc = items(
        own.cdse_syn(made="03"), own.cdse_syn("2024-06-01T09:01:01.2", kind="stc", made="09")
    )
    assert kept([stc, ntc], "sentinel3_syn") == [ntc.id]
    assert kept([stc], "sentinel3_syn") == [stc.id]


def test_consecutive_frames_other_orbits_and_platforms_stay():
    candidates = items(
        own.cdse_syn(),
        own.cdse_syn("2024-06-01T09:04:00.5"),
        own.cdse_syn(orbit=41001),
        own.cdse_syn(platform="b"),
    )
    assert len(kept(candidates, "sentinel3_syn")) == 4


def test_enmap_keeps_the_highest_version_of_each_tile():
    old = own.dlr_enmap(version="010402", made="20250101T000000")
    candidates = items(old, own.dlr_enmap(version="010502"), own.dlr_enmap("02", second=50))
    assert [i.split("_V")[1][:6] for i in kept(candidates, "enmap", "dlr")] == ["010502", "010502"]


def test_an_item_that_does_not_say_what_it_is_is_kept():
    bare = own.cdse_s2()
    bare["id"] = "unknown"
    for key in ("platform", "grid:code"):
        del bare["properties"][key]
    assert sorted(kept(items(bare, own.cdse_s2()), "sentinel2")) == sorted(
        ["unknown", own.cdse_s2()["id"]]
    )


def test_an_item_listed_twice_is_given_once():
    assert len(kept(items(own.cdse_syn(), own.cdse_syn()), "sentinel3_syn")) == 1


def test_baseline_from_property_or_name():
    with_property, without = items(own.earth_s2(baseline="05.00"), own.cdse_s2(baseline="04.00"))
    del without.properties["processing:version"]
    assert (baseline_of(with_property), baseline_of(without)) == ("05.00", "04.00")
