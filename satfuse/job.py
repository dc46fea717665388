"""A production job in plain values, and its checks before anything is searched, read or written."""

import dataclasses
import logging
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from satfuse.catalog.credentials import s3_keys, user_and_password
from satfuse.catalog.fields import Field, field_of_bbox, load_field
from satfuse.catalog.specs import CatalogSpec, load_catalog
from satfuse.dates import parse_interval
from satfuse.errors import ConfigError
from satfuse.geometry.grids import lonlat_bbox, parse_bbox
from satfuse.pairing import PairRules
from satfuse.sensors.bands import RATIO, S2_NAMES, S3_NAMES

if TYPE_CHECKING:
    from satfuse.train import SpectraConfig, TrainConfig

log = logging.getLogger(__name__)

SPECTRA = "spectra"  # given in place of a cube: train on the library of spectra
WORLD = (-180.0, -90.0, 180.0, 90.0)


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
    model : a model by its name, where its weights are in the package ("bayesian") or it needs none,
        or a checkpoint folder.
    train_on : catalogue of EnMAP scenes; with it a cube is built and the network `model` trained on
        it before fusing.
    train_start, train_end : first and last day of the EnMAP search; by default `start` and `end`.
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
    rules: dict[str, Any] = dataclasses.field(default_factory=dict)
    train: dict[str, Any] = dataclasses.field(default_factory=dict)


def check_job(job: Job) -> None:
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
        No scheduler answers at the address.
    """
    from satfuse import checkpoint
    from satfuse.cluster import connect
    from satfuse.product.store import Store

    check_discovery(job.field, job.start, job.end, job.catalog, job.rules)
    if job.train_on:
        check_cube(job.train_start or job.start, job.train_end or job.end, job.train_on)
        train_config({"model": job.model, **job.train})
    # a job that trains its own model has no checkpoint yet
    if not job.train_on or job.train.get("model", job.model) != job.model:
        checkpoint.resolve(job.model, guide_bands=S2_NAMES, coarse_bands=S3_NAMES, ratio=RATIO)
    Store(job.store)
    if job.scheduler:
        with connect(job.scheduler):
            log.info("scheduler %s answers", job.scheduler)


def check_discovery(
    field: str, start: str, end: str, catalog: str, rules: dict[str, Any] | None = None
) -> tuple[Field, PairRules, tuple[CatalogSpec, CatalogSpec]]:
    """Check a search for pairs before any request.

    Parameters
    ----------
    field, start, end, catalog, rules : see `Job`; `rules` override those of the field.

    Returns
    -------
    Field, rules, and the catalogues of guide and coarse sensor.

    Raises
    ------
    ConfigError, GridError, AccessError
        See `check_job`.
    """
    area = resolve_field(field)
    day_window(start, end)
    specs = resolve_catalogs(catalog)
    for spec in specs:
        check_credentials(spec)
    return area, PairRules.from_dict({**area.rules, **(rules or {})}), specs


def check_cube(
    start: str, end: str, catalog: str, field: str | None = None
) -> tuple[CatalogSpec, tuple[float, float, float, float]]:
    """Check a search for EnMAP scenes before any request.

    Parameters
    ----------
    start, end, catalog, field : see `Job`; without a field the whole world is searched.

    Returns
    -------
    Catalogue, and lon/lat box in degrees.
    """
    spec = load_catalog(catalog)
    spec.collections_of("enmap")
    check_credentials(spec)
    day_window(start, end)
    return spec, lonlat_box(field) if field else WORLD


def train_config(
    values: dict[str, Any], data: str | Path | None = None
) -> "TrainConfig | SpectraConfig":
    """Check the settings of a training as far as it can be done without the data.

    Parameters
    ----------
    values : see `TrainConfig`, or `SpectraConfig` for spectra.
    data : path of a cube, or "spectra"; None = a cube that is not built yet.

    Returns
    -------
    A `SpectraConfig` where `data` is "spectra", else a `TrainConfig`.

    Raises
    ------
    ConfigError
        An unknown key, a model that is unknown or has no weights, or a model that is not trained on
        such data.
    """
    from satfuse.models import MODELS
    from satfuse.train import FROM_SPECTRA, SpectraConfig, TrainConfig

    on_spectra = data is not None and str(data) == SPECTRA
    config = (SpectraConfig if on_spectra else TrainConfig).from_dict(values)
    trainable = [name for name, model in MODELS.items() if model.needs_weights]
    if config.model not in trainable:
        raise ConfigError(
            f"model {config.model!r} is unknown or has no weights to train; "
            f"known: {', '.join(trainable)}"
        )
    if on_spectra and config.model not in FROM_SPECTRA:
        raise ConfigError(
            f"{config.model} is trained on a cube; models from spectra: {', '.join(FROM_SPECTRA)}"
        )
    if not on_spectra and config.model in FROM_SPECTRA:
        raise ConfigError(
            f"{config.model} is trained on spectra, not on a cube: satfuse train spectra --model "
            f"{config.model}"
        )
    return config


def resolve_field(field: str) -> Field:
    """A named field, a GeoJSON file, or a lon/lat box "W,S,E,N", which is named by its grid."""
    if not _is_box(field):
        return load_field(field)
    area = field_of_bbox(field)
    crs = area.geobox.crs
    assert crs is not None  # the grid of a box is in its UTM zone
    box = area.geobox.boundingbox
    height, width = area.geobox.shape
    name = f"box-{crs.epsg}-{box.left:.0f}-{box.bottom:.0f}-{width}x{height}"
    return replace(area, name=name)


def lonlat_box(field: str) -> tuple[float, float, float, float]:
    """(west, south, east, north) in degrees of a field or box, for a search.

    A box is not put on a grid, so it may be wider than a UTM zone.
    """
    return parse_bbox(field) if _is_box(field) else lonlat_bbox(load_field(field).geobox)


def _is_box(field: str) -> bool:
    return field.count(",") == 3 and not field.endswith(".geojson")


def check_credentials(spec: CatalogSpec) -> None:
    """Check that the credentials for reading from a catalogue are set.

    Raises
    ------
    AccessError
        They are missing; the message names the environment variables.
    """
    if spec.auth == "s3-keys":
        s3_keys(spec)
    if spec.auth == "basic":
        user_and_password(spec)


def catalog_of(sensor: str, catalog: str) -> CatalogSpec:
    """The catalogue of one sensor, from one for all sensors or "guide,coarse"."""
    names = _catalog_names(catalog)
    return load_catalog(names[-1] if sensor == "sentinel3_syn" else names[0])


def resolve_catalogs(catalog: str) -> tuple[CatalogSpec, CatalogSpec]:
    """Catalogues of guide and coarse sensor, from one for both or "guide,coarse".

    Raises
    ------
    ConfigError
        A catalogue without its sensor.
    """
    names = _catalog_names(catalog)
    if len(names) > 2:
        raise ConfigError(
            f"{catalog!r} names {len(names)} catalogues; give one, or guide and coarse as A,B"
        )
    guide = load_catalog(names[0])
    coarse = load_catalog(names[-1])
    for spec, sensor in ((guide, "sentinel2"), (coarse, "sentinel3_syn")):
        if not spec.collections.get(sensor):
            raise ConfigError(
                f"catalogue {spec.name} has no {sensor}; name one for each as guide,coarse"
            )
    return guide, coarse


def _catalog_names(catalog: str) -> list[str]:
    return [name.strip() for name in catalog.split(",")]


def day_window(start: str, end: str) -> tuple[datetime, datetime]:
    """First instant of `start` and last instant of `end`, UTC.

    Raises
    ------
    ConfigError
        Malformed, reversed, or in the future.
    """
    return parse_interval(start, end, days_only=True)
