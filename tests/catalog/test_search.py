import json
import logging
import pickle
import threading
from dataclasses import replace

import pytest

from satfuse.catalog import search as search_module
from satfuse.catalog.search import RateLimiter, search
from satfuse.catalog.specs import load_catalog
from satfuse.errors import CatalogError, ConfigError, GridError
from tests.catalog import own_items as own
from tests.catalog.dialects import HTML_LOGIN, WAF, DialectServer, Fault

WHERE = {"bbox": (26.3, 58.2, 26.6, 58.5), "start": "2024-06-01", "end": "2024-06-01"}
DIALECTS = {
    "cdse": ("cdse", "sentinel2", own.cdse_s2),
    "earth-search": ("earth-search", "sentinel2", own.earth_s2),
    "dlr": ("dlr", "enmap", own.dlr_enmap),
}


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(search_module, "BACKOFF_S", 0.01)


def at(server, name, **changes):
    """The shipped catalogue, moved to the test server."""
    return replace(
        load_catalog(name), url=server.url, **{"requests_per_s": 200.0, "timeout_s": 5.0, **changes}
    )


def tiles(count):
    return [f"35V{chr(65 + i // 8)}{'ABCDEFGH'[i % 8]}" for i in range(count)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_page_is_read_once_in_each_dialect(dialect):
    name, sensor, make = DIALECTS[dialect]
    if sensor == "enmap":
        features = [make(f"{i:02d}", second=10 + i) for i in range(23)]
    else:
        features = [make(tile) for tile in tiles(23)]
    with DialectServer(dialect, features, page_size=10) as server:
        items = search(at(server, name), sensor, **WHERE)
    assert {i.id for i in items} == {f["id"] for f in features}
    assert len(items) == 23
    assert [r[1] for r in server.searches] == ["POST"] * 3
    # every page was asked with the full search, however the service writes its next link
    assert all(r[3]["bbox"] == list(WHERE["bbox"]) and r[3]["collections"] for r in server.searches)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_cloud_filter_is_sent_in_the_dialect_and_applied_here(dialect):
    name, sensor, make = DIALECTS[dialect]
    if sensor == "sentinel2":
        features = [make("35VLF", cloud=3.5), make("35VLG", cloud=80.0), make("35VLH", cloud=None)]
    else:
        clouds = enumerate(("3", "80", None))  # text, as the service has it
        features = [make(f"0{i}", cloud=cloud, second=10 + i) for i, cloud in clouds]
    with DialectServer(dialect, features) as server:
        items = search(at(server, name), sensor, max_cloud=20, **WHERE)
        body = server.searches[0][3]
    assert [i.id for i in items] == [features[0]["id"]]
    expected = {
        "cdse": {"query": {"eo:cloud_cover": {"lte": 20}}},
        "earth-search": {"query": {"eo:cloud_cover": {"lte": 20}}},
        "dlr": {"filter": "eo:cloud_cover <= 20", "filter-lang": "cql2-text"},
    }
    filters = {k: v for k, v in body.items() if k in ("query", "filter", "filter-lang")}
    assert filters == expected[dialect]


def test_the_imitation_refuses_what_the_real_service_refuses():
    """Else the test above proves nothing."""
    with (
        DialectServer("dlr", [own.dlr_enmap()]) as server,
        pytest.raises(CatalogError, match=r"HTTP 400.*cql2-text"),
    ):
        search(at(server, "dlr", filter="query"), "enmap", max_cloud=20, **WHERE)
    with DialectServer("earth-search", [own.earth_s2()]) as server:
        with pytest.raises(CatalogError, match=r"HTTP 400.*filter is not supported"):
            search(
                at(server, "earth-search", filter="cql2-json"), "sentinel2", max_cloud=20, **WHERE
            )
        with pytest.raises(CatalogError, match="HTTP 500"):
            search(at(server, "earth-search", page_limit=500), "sentinel2", **WHERE)


def test_other_collections_boxes_and_days_are_filtered_out_here():
    far = own.cdse_s2("31RFP", "2024-06-01")
    far["bbox"] = [3.0, 30.0, 4.0, 31.0]
    other_day = own.cdse_s2("35VLG", "2024-06-02")
    other_collection = own.cdse_s2("35VLH")
    other_collection["collection"] = "sentinel-2-l1c"
    with DialectServer("cdse", [far, other_day, other_collection, own.cdse_s2()]) as server:
        items = search(at(server, "cdse"), "sentinel2", **WHERE)
    assert [i.properties["grid:code"] for i in items] == ["MGRS-35VLF"]


def test_dlr_strings_become_numbers_and_identifiers_stay():
    quicklook = own.dlr_enmap("02", collection="ENMAP_HSI_L0_QL")
    with DialectServer("dlr", [own.dlr_enmap(cloud="4"), quicklook]) as server:
        (item,) = search(at(server, "dlr"), "enmap", **WHERE)
    p = item.properties
    assert p["eo:cloud_cover"] == 4
    assert p["sat:relative_orbit"] == 12097
    assert p["enmap:nodata"] == -32768
    assert p["enmap:sunAzimuthAngle"] == 26.673897
    assert p["enmap:datatakeID"] == "0000080454"
    assert p["platform"] == "enmap"


def test_datatake_start_widens_the_window_and_sensing_time_does_not():
    """A tile of a datatake that starts at 09:30:31 may be sensed at 09:41: it must match."""
    window = {**WHERE, "start": "2024-06-01T09:40:00Z", "end": "2024-06-01T09:45:00Z"}
    with DialectServer("cdse", [own.cdse_s2()]) as server:
        assert len(search(at(server, "cdse"), "sentinel2", **window)) == 1
        assert server.searches[0][3]["datetime"] == "2024-06-01T09:10:00Z/2024-06-01T10:15:00Z"
    with DialectServer("earth-search", [own.earth_s2()]) as server:
        assert search(at(server, "earth-search"), "sentinel2", **window) == []


def test_syn_frame_is_found_by_its_interval_and_never_by_its_cloud_cover():
    window = {**WHERE, "start": "2024-06-01T09:03:00Z", "end": "2024-06-01T09:03:10Z"}
    with DialectServer(
        "cdse", [own.cdse_syn(cloud=99.0), own.cdse_syn("2024-06-01T09:04:00.5")]
    ) as server:
        (item,) = search(at(server, "cdse"), "sentinel3_syn", max_cloud=1, **window)
        assert "query" not in server.searches[0][3]
    assert item.properties["start_datetime"].startswith("2024-06-01T09:01")


def test_antimeridian_items_are_kept_on_both_sides_only():
    east = own.cdse_syn()
    east["bbox"] = [170.0, 52.0, -160.0, 64.0]
    with DialectServer("cdse", [east]) as server:
        for west, count in ((175.0, 1), (-170.0, 1), (26.0, 0)):
            items = search(
                at(server, "cdse"),
                "sentinel3_syn",
                **{**WHERE, "bbox": (west, 58.0, west + 1, 59.0)},
            )
            assert len(items) == count


def test_items_come_in_order_of_time_pickle_and_keep_no_link_to_the_service():
    features = [own.cdse_syn("2024-06-01T09:04:00"), own.cdse_syn("2024-06-01T09:01:00")]
    with DialectServer("cdse", features) as server:
        items = search(at(server, "cdse"), "sentinel3_syn", **WHERE)
        (first,) = search(at(server, "cdse"), "sentinel3_syn", max_items=1, **WHERE)
    assert [i.id for i in items] == [features[1]["id"], features[0]["id"]]
    assert first.id == items[0].id
    assert pickle.loads(pickle.dumps(items[0])).to_dict() == items[0].to_dict()
    assert server.url not in str(items[0].to_dict())


def test_429_on_post_is_retried_and_retry_after_is_honoured():
    with DialectServer("cdse", [own.cdse_s2()], faults=[WAF]) as server:
        items = search(at(server, "cdse"), "sentinel2", **WHERE)
    assert len(items) == 1
    times = [r[0] for r in server.searches]
    assert len(times) == 2
    assert times[1] - times[0] >= 1.0


def test_503_without_retry_after_is_retried():
    with DialectServer(
        "cdse", [own.cdse_s2()], faults=[Fault(503, "busy"), Fault(502, "busy")]
    ) as server:
        assert len(search(at(server, "cdse"), "sentinel2", **WHERE)) == 1
    assert len(server.searches) == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (replace(WAF, headers={}), r"cdse .*rate limit, HTTP 429 .*requests_per_s"),
        (Fault(503, "busy"), r"cdse .*HTTP 503"),
        (Fault(400, "no such collection"), r"HTTP 400: no such collection"),
        (HTML_LOGIN, r"HTML page instead of JSON"),
        (Fault(200, '{"features": ['), r"instead of JSON"),
        (Fault(200, '{"error": "WAF"}'), r"returned no STAC .*WAF"),
        (Fault(200, '{"features": [{"id": "broken"}]}'), r"not valid STAC \('broken'\)"),
    ],
)
def test_failures_name_service_status_and_fix(fault, message):
    with DialectServer("cdse", [own.cdse_s2()], faults=[fault] * 20) as server:
        with pytest.raises(CatalogError, match=message):
            search(at(server, "cdse"), "sentinel2", **WHERE)
        expected = 1 if fault.status in (200, 400) else 1 + search_module.RETRIES
        assert len(server.searches) == expected


def test_a_service_that_does_not_answer_times_out():
    with DialectServer("cdse", [own.cdse_s2()], faults=[Fault(wait_s=3)] * 9) as server:
        with pytest.raises(CatalogError, match=r"no answer within 0.5 s"):
            search(at(server, "cdse", timeout_s=0.5), "sentinel2", **WHERE)
        assert len(server.searches) == 2  # tried once more


def test_a_service_that_is_not_there():
    with DialectServer("cdse") as server:
        pass
    with pytest.raises(CatalogError, match="cannot be reached"):
        search(at(server, "cdse"), "sentinel2", **WHERE)


def test_empty_page_ends_the_search():
    with DialectServer("cdse", []) as server:
        assert search(at(server, "cdse"), "sentinel2", **WHERE) == []
    with DialectServer("cdse", [own.cdse_s2()]) as server:
        link = {"rel": "next", "method": "POST", "href": f"{server.url}/search", "body": {}}
        endless = json.dumps({"features": [], "links": [link]})
        server.faults = [Fault(200, endless)] * 5
        assert search(at(server, "cdse"), "sentinel2", **WHERE) == []
        assert len(server.searches) == 1


def test_paging_that_never_ends_is_stopped(monkeypatch):
    monkeypatch.setattr(search_module, "MAX_ITEMS_READ", 50)
    features = [own.cdse_s2(t) for t in tiles(60)]
    with (
        DialectServer("cdse", features, page_size=10) as server,
        pytest.raises(CatalogError, match="more than 50"),
    ):
        search(at(server, "cdse"), "sentinel2", **WHERE)


def test_requests_of_all_threads_are_spaced():
    with DialectServer("cdse", [own.cdse_s2()]) as server:
        spec = at(server, "cdse", requests_per_s=20.0)
        threads = [
            threading.Thread(target=search, args=(spec, "sentinel2"), kwargs=WHERE)
            for _ in range(4)
        ]
        [t.start() for t in threads]
        [t.join() for t in threads]
    times = sorted(r[0] for r in server.requests)
    assert len(times) == 8  # a landing page and a search each
    assert times[-1] - times[0] >= 7 / 20 * 0.9


def test_rate_limiter_does_not_save_up_idle_time(monkeypatch):
    clock = [100.0]
    slept = []
    monkeypatch.setattr(search_module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(search_module.time, "sleep", slept.append)
    limiter = RateLimiter(4)
    limiter.wait()
    limiter.wait()
    clock[0] = 200.0
    limiter.wait()
    limiter.wait()
    assert slept == pytest.approx([0, 0.25, 0, 0.25])


def test_bad_box_dates_and_sensor_are_refused_before_any_request():
    with DialectServer("earth-search") as server:
        with pytest.raises(ConfigError, match="dates are reversed"):
            search(at(server, "earth-search"), "sentinel2", **{**WHERE, "start": "2024-06-02"})
        with pytest.raises(GridError, match="reversed"):
            search(at(server, "earth-search"), "sentinel2", **{**WHERE, "bbox": "26,59,27,58"})
        with pytest.raises(
            ConfigError, match="earth-search has no sentinel3_syn; it has: sentinel2"
        ):
            search(at(server, "earth-search"), "sentinel3_syn", **WHERE)
    assert server.requests == []


def test_one_log_line_counts_what_was_kept(caplog):
    caplog.set_level(logging.INFO, "satfuse")
    with DialectServer(
        "cdse", [own.cdse_s2(), own.cdse_s2(baseline="02.14"), own.cdse_s2(cloud=90)]
    ) as server:
        search(at(server, "cdse"), "sentinel2", max_cloud=50, **WHERE)
    assert caplog.messages == ["cdse: 3 sentinel2 items found, 2 fit, 1 unique"]
