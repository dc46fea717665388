"""A production job in plain values, and all that can be checked before it searches, reads or writes anything."""

import logging
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

from satfuse.catalog.credentials import s3_keys, user_and_password
from satfuse.catalog.fields import Field, field_of_bbox, load_field
from satfuse.catalog.specs import CatalogSpec, load_catalog
from satfuse.errors import ConfigError
from satfuse.geometry.grids import lonlat_bbox, parse_bbox
from satfuse.pairing import PairRules
from satfuse.sensors.bands import RATIO, S2_NAMES, S3_NAMES

log = logging.getLogger(__name__)

SPECTRA = "spectra"  # in place of a cube: train on the library of spectra
WORLD = (-180, -90, 180, 90)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One production job, in values that JSON can hold.

    Parameters
    ----------
    field : name of a field, path of a field's GeoJSON file, or a lon/lat box "W,S,E,N".
    start, end : first and last day (UTC, "YYYY-MM-DD"), both included.
    catalog : catalogue of both sensors by name or path, or "guide,coarse".
    store : folder or URI of the product store.
    work : folder for pairs, cube, checkpoint and reports.
    model : a model whose weights are in the package ("bayesian") or that needs none, or a checkpoint folder.
    train_on : catalogue of EnMAP scenes; with it a cube is built and a network `model` trained before fusing.
    train_start, train_end : first and last day of the EnMAP search; the job's own days by default.
    scheduler : address of a Dask scheduler; a local cluster by default.
    rules, train : overrides of `PairRules` and `TrainConfig`.
    """

    field: str
    start: str
    end: str
    catalog: str
    store: str
    work: str
    model: str = "bayesian"
    train_on: str | None = None
    train_start: str | None = None
    train_end: str | None = None
    scheduler: str | None = None
    rules: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)


def check(job: Job) -> None:
    """Refuse a job that cannot succeed, before anything is searched or written.

    Raises
    ------
    ConfigError, GridError
        An unknown field, catalogue, rule or training key; a malformed box or date.
    AccessError
        Credentials are missing.
    CheckpointError
        The model does not exist, is damaged, or does not fit the bands.
    SchedulerError
        Nothing answers at the scheduler's address.
    """
    from satfuse import checkpoint
    from satfuse.cluster import connect
    from satfuse.product.store import Store

    check_discovery(job.field, job.start, job.end, job.catalog, job.rules)
    if job.train_on:
        check_cube(job.train_start or job.start, job.train_end or job.end, job.train_on)
        train_config({"model": job.model, **job.train})
    if not job.train_on or job.train.get("model", job.model) != job.model:
        checkpoint.resolve(job.model, guide_bands=S2_NAMES, coarse_bands=S3_NAMES, ratio=RATIO)
    Store(job.store)
    if job.scheduler:
        with connect(job.scheduler):
            log.info("scheduler %s answers", job.scheduler)


def check_discovery(
    field, start, end, catalog, rules=None
) -> tuple[Field, PairRules, tuple[CatalogSpec, CatalogSpec]]:
    """Field, rules and catalogues of a search for pairs, before anything is asked of a service.

    Raises
    ------
    ConfigError, GridError, AccessError
        See `check`.
    """
    area = resolve_field(field)
    day_window(start, end)
    specs = resolve_catalogs(catalog)
    for spec in specs:
        check_credentials(spec)
    return area, PairRules.from_dict({**area.rules, **(rules or {})}), specs


def check_cube(start, end, catalog, field=None) -> tuple[CatalogSpec, tuple]:
    """Catalogue and lon/lat box of a search for EnMAP scenes, before anything is asked of a service."""
    spec = load_catalog(catalog)
    spec.collections_of("enmap")
    check_credentials(spec)
    day_window(start, end)
    return spec, lonlat_box(field) if field else WORLD


def train_config(values: dict, data="cube"):
    """The `TrainConfig` of a dict, checked as far as it can be without the data.

    Parameters
    ----------
    values : see `TrainConfig.from_dict`.
    data : path of a cube, or "spectra".

    Raises
    ------
    ConfigError
        An unknown key, a model that is unknown or has no weights, or one that is not trained on such data.
    """
    from satfuse.models import MODELS
    from satfuse.train import FROM_SPECTRA, TrainConfig

    config = TrainConfig.from_dict(values)
    trainable = [name for name, model in MODELS.items() if model.needs_weights]
    if config.model not in trainable:
        raise ConfigError(
            f"model {config.model!r} is unknown or has no weights to train; known: {', '.join(trainable)}"
        )
    if str(data) == SPECTRA and config.model not in FROM_SPECTRA:
        raise ConfigError(
            f"{config.model} is trained on a cube; models from spectra are: {', '.join(FROM_SPECTRA)}"
        )
    if str(data) != SPECTRA and config.model in FROM_SPECTRA:
        raise ConfigError(
            f"{config.model} is trained on spectra, not on a cube: satfuse train spectra --model ..."
        )
    return config


def resolve_field(field: str) -> Field:
    """A named field, a GeoJSON file, or a lon/lat box "W,S,E,N", which gets its name from its grid."""
    if not _is_box(field):
        return load_field(field)
    area = field_of_bbox(field)
    box, (height, width) = area.geobox.boundingbox, area.geobox.shape
    return replace(
        area, name=f"box-{area.geobox.crs.epsg}-{box.left:.0f}-{box.bottom:.0f}-{width}x{height}"
    )


def lonlat_box(field: str) -> tuple[float, float, float, float]:
    """(west, south, east, north) in degrees of a field or box, for a search; a box may be wider than a UTM zone."""
    return parse_bbox(field) if _is_box(field) else lonlat_bbox(load_field(field).geobox)


def _is_box(field):
    return field.count(",") == 3 and not field.endswith(".geojson")


def check_credentials(spec: CatalogSpec) -> None:
    """Look for the credentials that reading from a catalogue takes. Raises AccessError, which names the variables."""
    if spec.auth == "s3-keys":
        s3_keys(spec)
    if spec.auth == "basic":
        user_and_password(spec)


def resolve_catalogs(catalog: str) -> tuple[CatalogSpec, CatalogSpec]:
    """Catalogues of guide and coarse from "both" or "guide,coarse".

    Raises
    ------
    ConfigError
        A catalogue that does not hold its sensor.
    """
    names = [name.strip() for name in catalog.split(",")]
    if len(names) > 2:
        raise ConfigError(
            f"{catalog!r} names {len(names)} catalogues; give one, or guide and coarse as A,B"
        )
    specs = load_catalog(names[0]), load_catalog(names[-1])
    for spec, sensor in zip(specs, ("sentinel2", "sentinel3_syn"), strict=True):
        if not spec.collections.get(sensor):
            raise ConfigError(
                f"catalogue {spec.name} has no {sensor}; name one for each as guide,coarse"
            )
    return specs


def day_window(start: str, end: str) -> tuple[datetime, datetime]:
    """First instant of `start` and last instant of `end`, UTC.

    Raises
    ------
    ConfigError
        Malformed, reversed, or in the future.
    """
    first, last = _day(start), _day(end)
    if first > last:
        raise ConfigError(f"dates are reversed: start {start} is after end {end}")
    if first > datetime.now(UTC).date():
        raise ConfigError(f"date {start} is in the future; nothing has been acquired yet")
    return (
        datetime.combine(first, datetime.min.time(), UTC),
        datetime.combine(last, datetime.max.time(), UTC),
    )


def _day(text):
    try:
        return date.fromisoformat(text)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"date {text!r} is malformed: a date is YYYY-MM-DD ({error})") from error
