"""Search a STAC service: rate limited, with retries, and with filters applied here once more."""

import json
import logging
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

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
from satfuse.dates import DateLike, parse_interval
from satfuse.errors import CatalogError
from satfuse.geometry.grids import parse_bbox

log = logging.getLogger(__name__)

RETRIES = 6
BACKOFF_S = 1.0  # base of urllib3's exponential wait between retries
MAX_WAIT_S = 120  # also where a service asks for longer by Retry-After
MAX_ITEMS_READ = 10_000  # stops a search that is too wide, and paging that never ends
# How far the searched interval is widened on both sides, by the meaning of an item's `datetime`:
# the service compares that time, while the acquisition may be later.
_MARGIN = {
    "datatake_start": timedelta(minutes=30),
    "sensing": timedelta(0),
    "frame_start": timedelta(minutes=4),
    "frame_middle": timedelta(minutes=4),
}
_NUMERIC_PREFIXES = ("eo:", "view:", "sat:", "enmap:")  # properties that some services give as text


def search(
    spec: CatalogSpec,
    sensor: str,
    *,
    bbox: str | Sequence[float],
    start: DateLike,
    end: DateLike,
    max_cloud: float | None = None,
    max_items: int | None = None,
) -> list[pystac.Item]:
    """Find the items of a sensor that intersect a box in an interval of time.

    Parameters
    ----------
    spec : the service.
    sensor : "sentinel2", "sentinel3_syn" or "enmap".
    bbox : (west, south, east, north) in degrees, or text "W,S,E,N".
    start, end : first and last date or time, both included, see `satfuse.dates.parse_interval`.
        Where an item's time is the start of its datatake, items up to 30 minutes outside are
        returned too.
    max_cloud : largest cloud cover of the whole item in percent; items without the number are left
        out. Not applied to SYN, whose number is for a frame of 1300 km.
    max_items : return only so many, the earliest.

    Returns
    -------
    One item per acquisition, in order of time.

    Raises
    ------
    ConfigError
        Malformed, reversed or future dates, or a sensor that the service does not have.
    GridError
        A malformed bbox.
    CatalogError
        The service refuses, fails, times out, or returns an invalid response.
    """
    collections = spec.collections_of(sensor)
    box = parse_bbox(bbox)
    since, until = parse_interval(start, end)
    meaning = spec.datetime[sensor]
    margin = _MARGIN[meaning]
    if sensor == "sentinel3_syn":
        max_cloud = None
    items = _read_items(spec, collections, box, (since - margin, until + margin), max_cloud)
    # a tile is seen up to minutes after the start of its datatake, which alone is known here
    slack = margin if meaning == "datatake_start" else timedelta(0)
    matching = [
        item
        for item in items
        if item.collection_id in collections
        and _intersects(item, box)
        and _within(item, since - slack, until + slack)
        and _clear_enough(item, max_cloud)
    ]
    unique = deduplicate(matching, sensor, collections)
    counts = (len(items), sensor, len(matching), len(unique))
    log.info("%s: %d %s items found, %d fit, %d unique", spec.name, *counts)
    return unique[:max_items]


def _read_items(
    spec: CatalogSpec,
    collections: tuple[str, ...],
    box: tuple[float, float, float, float],
    interval: tuple[datetime, datetime],
    max_cloud: float | None,
) -> list[pystac.Item]:
    items = []
    for feature in _features(spec, collections, box, interval, max_cloud):
        items.append(_item(spec, feature))
        if len(items) > MAX_ITEMS_READ:
            raise CatalogError(
                f"{spec.name} returns more than {MAX_ITEMS_READ} items; "
                "search a shorter time or a smaller box"
            )
    return items


class RateLimiter:
    """Spaces the requests of all threads of this process evenly."""

    def __init__(self, requests_per_s: float) -> None:
        self._interval_s = 1 / requests_per_s
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Block until the next request may be sent."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._interval_s
        time.sleep(turn - now)


_limiters: dict[tuple[str, float], RateLimiter] = {}  # one per service and rate
_limiters_lock = threading.Lock()


class _Service(StacApiIO):
    """pystac-client's transport with the catalogue's timeout and rate, retries and clear errors."""

    def __init__(self, spec: CatalogSpec) -> None:
        retry = Retry(
            total=RETRIES,
            connect=2,
            read=1,
            backoff_factor=BACKOFF_S,
            backoff_jitter=BACKOFF_S / 2,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=None,  # all, also POST, which searches use
            respect_retry_after_header=True,
            retry_after_max=MAX_WAIT_S,
            raise_on_status=False,  # `_explain` reports the last status
        )
        super().__init__(timeout=spec.timeout_s, max_retries=retry)
        self._spec = spec
        with _limiters_lock:
            self._limiter = _limiters.setdefault(
                (spec.url, spec.requests_per_s), RateLimiter(spec.requests_per_s)
            )

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """Send one request when the rate allows it; raise `CatalogError` where it fails."""
        self._limiter.wait()
        try:
            return super().request(href, method, headers, parameters)
        except APIError as error:
            raise self._explain(error, href) from error

    def read_json(
        self, source: pystac.link.HREF, *args: object, **kwargs: object
    ) -> dict[str, Any]:
        """Read a page of the service; raise `CatalogError` where it is not STAC."""
        where = without_secrets(getattr(source, "href", source))
        try:
            answer = super().read_json(source, *args, **kwargs)
        except json.JSONDecodeError as error:
            page = "an HTML page" if error.doc.lstrip().startswith("<") else f"{error.doc[:60]!r}"
            raise CatalogError(
                f"{self._spec.name} returned {page} instead of JSON at {where}; "
                "check that the url is a STAC API"
            ) from error
        if not isinstance(answer, dict) or ("features" not in answer and "links" not in answer):
            raise CatalogError(
                f"{self._spec.name} returned no STAC at {where}: {json.dumps(answer)[:120]}"
            )
        return answer

    def _explain(self, error: APIError, href: str) -> CatalogError:
        spec = self._spec
        status = getattr(error, "status_code", None)
        where = f"{spec.name} ({without_secrets(href)})"
        if status == 429:
            return CatalogError(
                f"{where}: rate limit, HTTP 429 after {RETRIES} retries; wait a minute, or lower "
                f"requests_per_s (now {spec.requests_per_s:g}) in the catalogue file"
            )
        if status in (500, 502, 503, 504):
            return CatalogError(
                f"{where}: the service failed, HTTP {status} after {RETRIES} retries; "
                "try again later"
            )
        if status:
            reason = " ".join(str(error).split())[:160]  # on one line
            return CatalogError(f"{where}: the search was refused, HTTP {status}: {reason}")
        if isinstance(error.__context__, requests.Timeout) or "timed out" in str(error):
            return CatalogError(
                f"{where}: no answer within {spec.timeout_s:g} s; try again, or raise timeout_s"
            )
        cause = type(error.__context__).__name__
        return CatalogError(f"{where}: cannot be reached ({cause}); check url and network")


def _cloud_filter(spec: CatalogSpec, max_cloud: float | None) -> dict[str, Any]:
    """Options of a search that make the service filter by cloud cover, in the language it knows."""
    if max_cloud is None:
        return {}
    if spec.filter == "query":
        return {"query": {"eo:cloud_cover": {"lte": max_cloud}}}
    if spec.filter == "cql2-text":
        return {"filter": f"eo:cloud_cover <= {max_cloud:g}", "filter_lang": "cql2-text"}
    if spec.filter == "cql2-json":
        condition = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, max_cloud]}
        return {"filter": condition, "filter_lang": "cql2-json"}
    return {}


def _features(
    spec: CatalogSpec,
    collections: tuple[str, ...],
    box: tuple[float, float, float, float],
    interval: tuple[datetime, datetime],
    max_cloud: float | None,
) -> Iterator[dict[str, Any]]:
    """Yield items as the service returns them, page by page."""
    since, until = (moment.isoformat().replace("+00:00", "Z") for moment in interval)
    with warnings.catch_warnings():
        # pystac-client warns where a service does not declare what its TOML file says it can do
        warnings.simplefilter("ignore", PystacClientWarning)
        results = _open(spec).search(
            method=spec.method,
            collections=list(collections),
            bbox=box,
            datetime=(since, until),
            limit=spec.page_limit,
            **_cloud_filter(spec, max_cloud),
        )
    for page in results.pages_as_dicts():
        yield from page["features"]


def _open(spec: CatalogSpec) -> Client:
    try:
        # without `timeout` here, pystac-client would reset that of stac_io to none
        client = Client.open(spec.url, stac_io=_Service(spec), timeout=spec.timeout_s)
    except (pystac.STACError, KeyError, TypeError) as error:
        raise CatalogError(
            f"{spec.name}: {spec.url} is not the landing page of a STAC API: {error!r}"
        ) from error
    if not client.conforms_to("ITEM_SEARCH"):
        raise CatalogError(
            f"{spec.name}: {spec.url} does not offer item search; "
            f"it conforms to {client.get_conforms_to()}"
        )
    return client


def _item(spec: CatalogSpec, feature: dict[str, Any]) -> pystac.Item:
    """Make a pystac item with text numbers cast and without links (so that it pickles small)."""
    try:
        properties = {k: _number(k, v) for k, v in feature["properties"].items()}
        feature = {**feature, "links": [], "properties": properties}
        item = pystac.Item.from_dict(feature, migrate=True)
        start_of(item)  # fails here where the item has no time
        return item
    except (KeyError, TypeError, ValueError, AttributeError, pystac.STACError) as error:
        name = feature.get("id") if isinstance(feature, dict) else feature
        raise CatalogError(
            f"{spec.name} returned an item that is not valid STAC ({name!r}): {error!r}"
        ) from error


def _number(key: str, value: Any) -> Any:
    """Cast "12.5" to 12.5; keep other text, and identifiers such as "0000080454"."""
    if not key.startswith(_NUMERIC_PREFIXES) or not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    digits = value.strip().lstrip("-")
    # "nan" and "inf" pass float(), and a leading zero marks an identifier
    if not digits[0].isdigit() or (digits[0] == "0" and digits[1:2].isdigit()):
        return value
    return int(value) if digits.isdigit() else number


def _intersects(item: pystac.Item, box: tuple[float, float, float, float]) -> bool:
    """Whether the item's box meets the searched one; True where the item states no box."""
    if not item.bbox:
        return True
    size = len(item.bbox) // 2  # 3 where the box has heights too
    west, south = item.bbox[:2]
    east, north = item.bbox[size : size + 2]
    # west above east: the item crosses the antimeridian
    spans = [(west, east)] if west <= east else [(west, 180), (-180, east)]
    overlaps_in_longitude = any(w <= box[2] and e >= box[0] for w, e in spans)
    return south <= box[3] and north >= box[1] and overlaps_in_longitude


def _within(item: pystac.Item, since: datetime, until: datetime) -> bool:
    first = start_of(item)
    last = item.common_metadata.end_datetime or first
    if not last.tzinfo:
        last = last.replace(tzinfo=UTC)
    return first <= until and max(first, last) >= since


def _clear_enough(item: pystac.Item, max_cloud: float | None) -> bool:
    if max_cloud is None:
        return True
    cloud = item.properties.get("eo:cloud_cover")
    return isinstance(cloud, int | float) and cloud <= max_cloud
