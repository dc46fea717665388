"""Search a STAC service: gently, with retries, and filtering again here what the service was asked to filter."""

import json
import logging
import threading
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, timedelta

import pystac
import requests
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import PystacClientWarning
from urllib3.util import Retry

from satfuse.catalog.deduplicate import deduplicate, start_of
from satfuse.catalog.policy import without_secrets
from satfuse.catalog.specs import CatalogSpec
from satfuse.dates import parse_interval
from satfuse.errors import CatalogError
from satfuse.geometry.grids import parse_bbox

log = logging.getLogger(__name__)

RETRIES = 6
BACKOFF_S = 1.0
MAX_WAIT_S = 120  # however long a service asks us to wait
MAX_ITEMS_READ = 10_000
# How much wider the search window is than what was asked for, by what an item's `datetime` means.
_WIDER = {
    "datatake_start": timedelta(minutes=30),
    "sensing": timedelta(0),
    "frame_start": timedelta(minutes=4),
    "frame_middle": timedelta(minutes=4),
}
_NUMERIC = ("eo:", "view:", "sat:", "enmap:")


def search(
    spec: CatalogSpec,
    sensor: str,
    *,
    bbox,
    start,
    end,
    max_cloud: float | None = None,
    max_items: int | None = None,
) -> list[pystac.Item]:
    """Items of a sensor that touch a box in an interval of time, one per acquisition, in order of time.

    Parameters
    ----------
    spec : the service.
    sensor : "sentinel2", "sentinel3_syn" or "enmap".
    bbox : (west, south, east, north) in degrees, or text "W,S,E,N".
    start, end : date, datetime or ISO text; a date as `end` counts to its last moment; without a zone it is UTC. Where
        an item's time is the start of its datatake, items up to 30 minutes outside the interval are given too.
    max_cloud : largest cloud cover of the whole item in percent; items that do not state theirs are left out. Not
        applied to SYN, whose number is for a frame of 1300 km.
    max_items : the first so many.

    Raises
    ------
    ConfigError
        Dates that are malformed, reversed or in the future, or a sensor that the service does not have.
    GridError
        A malformed bbox.
    CatalogError
        The service refuses, fails, is too slow, or answers nonsense.
    """
    collections = spec.collections_of(sensor)
    box = parse_bbox(bbox)
    since, until = parse_interval(start, end)
    wider = _WIDER[spec.datetime[sensor]]
    if sensor == "sentinel3_syn":
        max_cloud = None
    found = []
    for feature in _features(spec, collections, box, (since - wider, until + wider), max_cloud):
        found.append(_item(spec, feature))
        if len(found) > MAX_ITEMS_READ:
            raise CatalogError(
                f"{spec.name} gives more than {MAX_ITEMS_READ} items; ask for less time or a smaller box"
            )
    slack = wider if spec.datetime[sensor] == "datatake_start" else timedelta(0)
    kept = [
        item
        for item in found
        if item.collection_id in collections
        and _touches(item, box)
        and _within(item, since - slack, until + slack)
        and _clear_enough(item, max_cloud)
    ]
    unique = deduplicate(kept, sensor, collections)
    log.info(
        "%s: %d %s items found, %d fit, %d unique",
        spec.name,
        len(found),
        sensor,
        len(kept),
        len(unique),
    )
    return unique[:max_items]


class RateLimiter:
    """Spaces the requests of all threads of this process evenly."""

    def __init__(self, requests_per_s: float):
        self._interval_s = 1 / requests_per_s
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Return when the next request may be sent."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._interval_s
        time.sleep(turn - now)


_limiters: dict[tuple[str, float], RateLimiter] = {}
_limiters_lock = threading.Lock()


class _Service(StacApiIO):
    """pystac-client's transport with our timeout, retries that include POST, our pace, and errors that say why."""

    def __init__(self, spec: CatalogSpec):
        retry = Retry(
            total=RETRIES,
            connect=2,
            read=1,
            backoff_factor=BACKOFF_S,
            backoff_jitter=BACKOFF_S / 2,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=None,
            respect_retry_after_header=True,
            retry_after_max=MAX_WAIT_S,
            raise_on_status=False,
        )
        super().__init__(timeout=spec.timeout_s, max_retries=retry)
        self._spec = spec
        with _limiters_lock:
            self._limiter = _limiters.setdefault(
                (spec.url, spec.requests_per_s), RateLimiter(spec.requests_per_s)
            )

    def request(self, href, method=None, headers=None, parameters=None) -> str:
        self._limiter.wait()
        try:
            return super().request(href, method, headers, parameters)
        except APIError as error:
            raise self._explain(error, href) from error

    def read_json(self, source, *args, **kwargs) -> dict:
        try:
            answer = super().read_json(source, *args, **kwargs)
        except json.JSONDecodeError as error:
            where = without_secrets(getattr(source, "href", source))
            page = "an HTML page" if error.doc.lstrip().startswith("<") else f"{error.doc[:60]!r}"
            raise CatalogError(
                f"{self._spec.name} answered {page} in place of JSON at {where}; is it a STAC API?"
            ) from error
        if not isinstance(answer, dict) or ("features" not in answer and "links" not in answer):
            where = without_secrets(getattr(source, "href", source))
            raise CatalogError(
                f"{self._spec.name} answered no STAC at {where}: {json.dumps(answer)[:120]}"
            )
        return answer

    def _explain(self, error, href):
        spec, status = self._spec, getattr(error, "status_code", None)
        where = f"{spec.name} ({without_secrets(href)})"
        if status == 429:
            return CatalogError(
                f"{where}: rate limit, HTTP 429 after {RETRIES} retries; wait a minute, or lower requests_per_s "
                f"(now {spec.requests_per_s:g}) in the catalogue file"
            )
        if status in (500, 502, 503, 504):
            return CatalogError(
                f"{where}: the service fails, HTTP {status} after {RETRIES} retries; try again later"
            )
        if status:
            return CatalogError(
                f"{where}: the search was refused, HTTP {status}: {_first_line(error)}"
            )
        if isinstance(error.__context__, requests.Timeout) or "timed out" in str(error):
            return CatalogError(
                f"{where}: no answer within {spec.timeout_s:g} s; try again, or raise timeout_s"
            )
        return CatalogError(
            f"{where}: cannot be reached ({type(error.__context__).__name__}); check url and network"
        )


def _first_line(error):
    return " ".join(str(error).split())[:160]


def _features(spec, collections, box, interval, max_cloud) -> Iterator[dict]:
    """Raw items, page by page, asking the service to filter only in a way that it supports."""
    filters = {}
    if max_cloud is not None and spec.filter == "query":
        filters = {"query": {"eo:cloud_cover": {"lte": max_cloud}}}
    elif max_cloud is not None and spec.filter == "cql2-text":
        filters = {"filter": f"eo:cloud_cover <= {max_cloud:g}", "filter_lang": "cql2-text"}
    elif max_cloud is not None and spec.filter == "cql2-json":
        condition = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, max_cloud]}
        filters = {"filter": condition, "filter_lang": "cql2-json"}
    moments = [moment.isoformat().replace("+00:00", "Z") for moment in interval]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", PystacClientWarning
        )  # what a service can do stands in its TOML file
        results = _open(spec).search(
            method=spec.method,
            collections=list(collections),
            bbox=box,
            datetime=moments,
            limit=spec.page_limit,
            **filters,
        )
    for page in results.pages_as_dicts():
        yield from page["features"]


def _open(spec) -> Client:
    try:
        # without `timeout` here, pystac-client would reset that of stac_io to none
        client = Client.open(spec.url, stac_io=_Service(spec), timeout=spec.timeout_s)
    except (pystac.STACError, KeyError, TypeError) as error:
        raise CatalogError(
            f"{spec.name}: {spec.url} is not the landing page of a STAC API: {error!r}"
        ) from error
    if not client.conforms_to("ITEM_SEARCH"):
        raise CatalogError(
            f"{spec.name}: {spec.url} does not offer item search; it conforms to {client.get_conforms_to()}"
        )
    return client


def _item(spec, feature) -> pystac.Item:
    """A pystac item with string numbers cast and no link to the service that gave it (so that it pickles small)."""
    try:
        properties = feature["properties"]
        feature = {
            **feature,
            "links": [],
            "properties": {k: _number(k, v) for k, v in properties.items()},
        }
        item = pystac.Item.from_dict(feature, migrate=True)
        start_of(item)
        return item
    except (KeyError, TypeError, ValueError, AttributeError, pystac.STACError) as error:
        name = feature.get("id") if isinstance(feature, dict) else feature
        raise CatalogError(
            f"{spec.name} gave an item that is not valid STAC ({name!r}): {error!r}"
        ) from error


def _number(key, value):
    """Cast "12.5" to 12.5, and leave texts and identifiers such as "0000080454" as they are."""
    if not key.startswith(_NUMERIC) or not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    digits = value.strip().lstrip("-")
    if not digits[0].isdigit() or (digits[0] == "0" and digits[1:2].isdigit()):
        return value
    return int(value) if value.strip().lstrip("-").isdigit() else number


def _touches(item, box):
    """Whether the item's box meets the searched one; a box with west above east crosses the antimeridian."""
    if not item.bbox:
        return True
    size = len(item.bbox) // 2
    west, south, east, north = item.bbox[0], item.bbox[1], item.bbox[size], item.bbox[size + 1]
    spans = [(west, east)] if west <= east else [(west, 180), (-180, east)]
    return (
        south <= box[3] and north >= box[1] and any(w <= box[2] and e >= box[0] for w, e in spans)
    )


def _within(item, since, until):
    first = start_of(item)
    last = item.common_metadata.end_datetime or first
    return first <= until and max(first, last if last.tzinfo else last.replace(tzinfo=UTC)) >= since


def _clear_enough(item, max_cloud):
    if max_cloud is None:
        return True
    cloud = item.properties.get("eo:cloud_cover")
    return isinstance(cloud, int | float) and cloud <= max_cloud
