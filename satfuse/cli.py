"""Fuse Sentinel-2 and Sentinel-3 SYN into 21-band, 10 m reflectance.

One verb per stage, `fuse` for the whole job.
"""

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from satfuse import __version__, model_names
from satfuse.config import load_settings
from satfuse.errors import ConfigError, SatfuseError
from satfuse.terminal import note, progress_bar, set_up_log, show

app = typer.Typer(
    name="satfuse",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: examples stay on one line, to be copied
    help=__doc__,
)

_FIELD = typer.Option("--field", help="A named field, or the path of its .geojson.")

FieldName = Annotated[str | None, _FIELD]
Bbox = Annotated[
    str | None, typer.Option("--bbox", metavar="W,S,E,N", help="Lon/lat box in degrees.")
]
Date = Annotated[str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="One day (UTC).")]
Start = Annotated[
    str | None, typer.Option("--start", metavar="YYYY-MM-DD", help="First day (UTC).")
]
End = Annotated[str | None, typer.Option("--end", metavar="YYYY-MM-DD", help="Last day, included.")]
Catalog = Annotated[
    str | None, typer.Option("--catalog", help="Catalogue by name or .toml; S2,S3 for two.")
]
Store = Annotated[
    str | None, typer.Option("--store", help="Product store: a folder or s3:// address.")
]
Model = Annotated[str | None, typer.Option("--model", help=f"{model_names.CHOICE}.")]
Scheduler = Annotated[
    str | None, typer.Option("--scheduler", help="Dask scheduler, tcp://host:port.")
]
Config = Annotated[Path | None, typer.Option("--config", help="Settings file (TOML).")]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
Verbose = Annotated[
    int,
    typer.Option(
        "-v",
        "--verbose",
        count=True,
        show_default=False,
        help="Log each step; -vv also logs what the libraries do.",
    ),
]
LandCoverMap = Annotated[
    Path | None,
    typer.Option("--land-cover", help="Map of class codes: any raster that GDAL reads."),
]
MapLegend = Annotated[
    str,
    typer.Option(
        "--legend",
        help="Legend of that map: worldcover, or a .toml with vegetation = [...] and [classes].",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check and say what would be done; write nothing.")
]

# Table of pairs: heading -> text of a row of `satfuse.pairing.table`.
PAIR_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "guide": lambda r: r["guide_time"].replace("+00:00", "Z"),
    "coarse": lambda r: r["coarse_time"].replace("+00:00", "Z"),
    "gap s": lambda r: f"{r['gap_s']:+.1f}",
    "by items s": lambda r: f"{r['item_gap_s']:+.0f}",
    "cloud %": lambda r: f"{100 * r['guide_cloud']:.1f} {100 * r['coarse_cloud']:.1f}",
    "overlap %": lambda r: f"{100 * r['overlap']:.1f}",
    "view deg": lambda r: f"{r['guide_view_zenith_deg']:.0f} {r['coarse_view_zenith_deg']:.0f}",
    "sun deg": lambda r: f"{r['guide_sun_zenith_deg']:.0f} {r['coarse_sun_zenith_deg']:.0f}",
    "clocks": lambda r: r["gap_clock"],
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point.

    Exits with 0; 1 after an error, which is one line on stderr; 2 for wrong usage; 130 after
    Ctrl-C.
    """
    try:
        app(arguments, prog_name="satfuse")
    except SatfuseError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error}; check that the path exists, may be written, and has space")


def verb(example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a verb whose help ends with an example, unwrapped."""
    return app.command(epilog=f"Example:\n\n\b\n  {example}")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"satfuse {__version__}")
        raise typer.Exit


@app.callback()
def _options_before_verbs(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


@verb("satfuse demo --out demo-out")
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of everything the demo makes.")] = Path(
        "demo-out"
    ),
    dry_run: DryRun = False,
    json_out: Json = False,
    verbose: Verbose = 0,
) -> None:
    """Watch Sentinel-2 and Sentinel-3 become one image, on a simulated archive."""
    set_up_log(verbose)
    if dry_run:
        return show({"would write": str(out)}, json_out)
    from satfuse.demo import run_demo

    if not json_out:
        run_demo(out)
        return None
    with redirect_stdout(sys.stderr):  # the demo's tables are human-readable
        scores = run_demo(out)
    return show(scores, json_out)


@verb("satfuse simulate archive --field tartu --seed 7")
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder of the archive.")],
    field: Annotated[str, _FIELD] = "tartu",
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same pixels.")] = 7,
    gap_s: Annotated[
        float, typer.Option("--gap", help="Seconds from the S2 to the S3 acquisition.")
    ] = 180.0,
    dry_run: DryRun = False,
    json_out: Json = False,
    verbose: Verbose = 0,
) -> None:
    """Make a small archive in the official formats, with known truth."""
    set_up_log(verbose)
    from satfuse.simulate.archive import ArchiveRecipe, make_archive

    recipe = ArchiveRecipe(field=field, seed=seed, gap_s=gap_s)
    facts = {
        "field": field,
        "pixels": list(recipe.geobox.shape),
        "days": [str(recipe.day), str(recipe.cloudy_day)],
    }
    if dry_run:
        return show({"would write": str(out), **facts}, json_out)
    with progress_bar("simulating") as progress:
        archive = make_archive(out, recipe, progress=progress)
    counts = {sensor: f"{len(items)} items" for sensor, items in archive.items.items()}
    paths = {"archive": str(archive.root), "truth": str(archive.truth)}
    return show({**paths, **facts, **counts}, json_out)


@verb("satfuse search sentinel3_syn --field tartu --date 2024-06-01 --catalog cdse")
def search(
    sensor: Annotated[str, typer.Argument(help="sentinel2, sentinel3_syn or enmap.")],
    field: FieldName = None,
    bbox: Bbox = None,
    date: Date = None,
    start: Start = None,
    end: End = None,
    catalog: Catalog = None,
    config: Config = None,
    json_out: Json = False,
    verbose: Verbose = 0,
) -> None:
    """List the items of one sensor over an area."""
    set_up_log(verbose)
    from satfuse import pipeline

    settings = load_settings(config)
    default = settings.enmap_catalog if sensor == "enmap" else settings.catalog
    area = _area(field, bbox)
    days = _days(date, start, end)
    items = pipeline.find_items(sensor, area, *days, catalog or default)
    rows = [
        {
            "id": i.id,
            "start": f"{i.common_metadata.start_datetime or i.datetime}",
            "collection": i.collection_id,
        }
        for i in items
    ]
    show(rows, json_out)


@verb("satfuse pairs --field algeria-5 --start 2024-06-01 --end 2024-06-30 --catalog cdse")
def pairs(
    out: Annotated[Path, typer.Option("--out", help="Table to write (geoparquet).")] = Path(
        "pairs.parquet"
    ),
    field: FieldName = None,
    bbox: Bbox = None,
    date: Date = None,
    start: Start = None,
    end: End = None,
    catalog: Catalog = None,
    frames: Annotated[
        int, typer.Option("--frames", min=1, help="Nearest S3 acquisitions kept per S2 one.")
    ] = 1,
    config: Config = None,
    dry_run: DryRun = False,
    json_out: Json = False,
    verbose: Verbose = 0,
) -> None:
    """Find pairs by their true acquisition times at the field; print the table and write it."""
    set_up_log(verbose)
    from satfuse import pipeline
    from satfuse.job import check_discovery
    from satfuse.pairing import read_pairs, table

    settings = load_settings(config)
    area = _area(field, bbox)
    days = _days(date, start, end)
    where = catalog or settings.catalog
    if dry_run:
        check_discovery(area, *days, where, settings.rules)
        plan = {"would write": str(out), "area": area, "days": days, "catalog": where}
        return show(plan, json_out)
    path = pipeline.discover(area, *days, where, out, settings.rules, frames)
    show(table(read_pairs(path)), json_out, PAIR_COLUMNS)
    return note(f"written: {path}")


@verb("satfuse cube --bbox 9,47,14,52 --start 2024-06-01 --end 2024-06-30 --catalog dlr")
def cube(
    out: Annotated[Path, typer.Option("--out", help="Cube to write (Zarr).")] = Path("cube.zarr"),
    table: Annotated[
        Path | None, typer.Option("--pairs", help="Build it from these pairs, not from EnMAP.")
    ] = None,
    field: FieldName = None,
    bbox: Bbox = None,
    date: Date = None,
    start: Start = None,
    end: End = None,
    catalog: Catalog = None,
    scheduler: Scheduler = None,
    config: Config = None,
    dry_run: DryRun = False,
    json_out: Json = False,
    verbose: Verbose = 0,
) -> None:
    """Turn EnMAP scenes, or pairs, into a training cube.

    Without an area it takes scenes of the whole world.
    """
    set_up_log(verbose)
    from satfuse import pipeline
    from satfuse.job import check_cube
    from satfuse.pairing import read_pairs

    settings = load_settings(config)
    workers = scheduler or settings.scheduler
    if table is not None:
        if field or bbox or date or start or end or catalog:
            raise ConfigError(
                "--pairs names the scenes already; omit --field, --bbox, dates and --catalog"
            )
        if dry_run:
            ids = [p.id for p in read_pairs(table)]
            return show({"would write": str(out), "pairs": ids}, json_out)
        return show({"cube": pipeline.build_pair_cube(table, out, workers)}, json_out)
    days = _days(date, start, end)
    where = catalog or settings.enmap_catalog
    area = _area(field, bbox) if field or bbox else None
    if dry_run:
        check_cube(*days, where, area)
        plan = {"would write": str(out), "area": area, "days": days, "catalog": where}
        return show(plan, json_out)
    return show({"cube": pipeline.build_cube(*days, where, out, workers, area)}, json_out)


@verb("satfuse train spectra --model bayesian --out checkpoint")
def train(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Training cube (Zarr), or the word spectra.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Checkpoint folder.")] = Path("checkpoint"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="On a cube: spectral (the default), fusformer or ssrnet; "
            "on spectra: bayesian or library_regression.",
        ),
    ] = None,
    config: Config = None,
    dry_run: DryRun = False,
    json_out: Json = False,
    verbose: Verbose = 0,
) -> None:
    """Train a model on a cube, or on the library of spectra.

    On a cube an interrupted run resumes when the command is run again, and is bit-identical.
    """
    set_up_log(verbose)
    from satfuse import pipeline
    from satfuse.info import describe
    from satfuse.job import train_config
    from satfuse.train import SpectraConfig

    values = load_settings(config).train | ({"model": model} if model else {})
    settings = train_config(values, data)
    if dry_run:
        return show({"would write": str(out), "data": data, "model": settings.model}, json_out)
    with progress_bar(f"training {settings.model}") as bar:

        def report(epoch: int, step: int, value: float) -> None:
            if isinstance(settings, SpectraConfig):
                bar(step, settings.scenes, "calibrating")
            else:
                bar(epoch, settings.epochs, f"batch {step}, loss {value:.4f}")

        path = pipeline.train(data, out, values, report)
    return show({"checkpoint": path, "metrics": describe(path)["metrics"]}, json_out)


@verb("satfuse fuse --field algeria-5 --date 2024-06-01 --catalog cdse --store s3://bucket/fused")
def fuse(
    field: FieldName = None,
    bbox: Bbox = None,
    date: Date = None,
    start: Start = None,
    end: End = None,
    catalog: Catalog = None,
    store: Store = None,
    model: Model = None,
    scheduler: Scheduler = None,
    config: Config = None,
    work: Annotated[Path, typer.Option("--work", help="Folder for pairs and reports.")] = Path(
        "satfuse-work"
    ),
    dry_run: DryRun = False,
    json_out: Json = False,
    verbose: Verbose = 0,
) -> None:
    """Do the whole production job: search, pair, co-register, fuse, publish, validate."""
    set_up_log(verbose)
    from satfuse import pipeline
    from satfuse.job import Job, check_job, resolve_field
    from satfuse.product.store import default_store

    settings = load_settings(config)
    area = _area(field, bbox)
    first, last = _days(date, start, end)
    job = Job(
        field=area,
        start=first,
        end=last,
        catalog=catalog or settings.catalog,
        store=store or os.environ.get("SATFUSE_STORE") or settings.store or default_store(),
        work=str(work / f"{resolve_field(area).name}_{first}_{last}"),
        model=model or settings.model,
        scheduler=scheduler or settings.scheduler,
        rules=settings.rules,
    )
    if dry_run:
        check_job(job)
        plan = {"work": job.work, "model": job.model, "catalog": job.catalog}
        return show({"would write": job.store, **plan}, json_out)
    with progress_bar("fusing") as bar:
        result = pipeline.run(job, progress=lambda share: bar(share, 1, "tiles"))
    return show({"products": list(result.products), "reports": list(result.reports)}, json_out)


@verb("satfuse validate fused/items/ID.json --out report")
def validate(
    item: Annotated[str, typer.Argument(help="STAC item of a product: a path or s3:// address.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the reports.")] = Path("report"),
    land_cover: LandCoverMap = None,
    legend: MapLegend = "worldcover",
    dry_run: DryRun = False,
    json_out: Json = False,
    verbose: Verbose = 0,
) -> None:
    """Measure a product against its own inputs: table, JSON, figures, one HTML page."""
    set_up_log(verbose)
    from satfuse.info import describe
    from satfuse.validate.product import validate_item

    product = describe(item)
    if dry_run:
        return show({"would write": str(out / product.get("id", "")), "product": item}, json_out)
    folder = validate_item(item, out, land_cover=land_cover, legend=legend)
    return show({"report": str(folder)}, json_out)


@verb("satfuse report eo/items/ID.json other/items/ID.json --out comparison")
def report(
    items: Annotated[
        list[str], typer.Argument(metavar="ITEM ...", help="STAC items of products of one place.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("comparison"),
    also_at: Annotated[
        float | None,
        typer.Option(
            "--also-at", metavar="METRES", help="Add the first product's model at larger pixels."
        ),
    ] = None,
    scheduler: Scheduler = None,
    land_cover: LandCoverMap = None,
    legend: MapLegend = "worldcover",
    dry_run: DryRun = False,
    json_out: Json = False,
    verbose: Verbose = 0,
) -> None:
    """Compare products of one place, such as of two checkpoints, with the first one."""
    set_up_log(verbose)
    from satfuse.infer.larger_pixels import fuse_larger
    from satfuse.info import describe
    from satfuse.validate.comparison.items import compare_items

    names = [describe(item).get("id", item) for item in items]
    if dry_run:
        return show({"would write": str(out), "products": names}, json_out)
    if also_at is not None:
        with progress_bar(f"fusing at {also_at:g} m") as bar:
            larger = fuse_larger(
                items[0],
                also_at,
                out / f"{also_at:g}m",
                scheduler=scheduler,
                progress=lambda done, total: bar(done, total, "tiles"),
            )
        items = [*items, larger]
    folder = compare_items(items, out, land_cover=land_cover, legend=legend)
    return show({"report": str(folder)}, json_out)


@verb("satfuse info checkpoint")
def info(
    path: Annotated[
        str,
        typer.Argument(
            help="A product, its item, a store, a cube, a checkpoint, a table of pairs."
        ),
    ],
    json_out: Json = False,
    verbose: Verbose = 0,
) -> None:
    """Say what a path or s3:// address is, and list its contents."""
    set_up_log(verbose)
    from satfuse.info import describe

    facts = describe(path)
    show(facts, json_out, PAIR_COLUMNS if "pairs" in facts else None)


@verb("satfuse clean fused --delete")
def clean(
    store: Annotated[str, typer.Argument(help="Product store: a folder or s3:// address.")],
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; else only list.")] = False,
    json_out: Json = False,
    verbose: Verbose = 0,
) -> None:
    """List the superseded runs of a store, or delete them to free disk space.

    A run is superseded when no product points to its data: it was replaced, or never finished.
    Runs that changed within the last day are kept, since they may be running or still be read.
    """
    set_up_log(verbose)
    from satfuse.product.store import Store
    from satfuse.product.superseded import KEPT_FOR, remove_superseded, superseded

    place = Store(store)
    if not place.writable:
        raise ConfigError(f"store {place.url} is read-only; give its folder or s3:// address")
    if not place.exists("data"):
        raise ConfigError(f"there is no product store at {place.url}")
    if delete:
        removed = remove_superseded(place)
        kept = superseded(place)
    else:
        runs = superseded(place)
        removed = [run for run in runs if run.age >= KEPT_FOR]
        kept = [run for run in runs if run.age < KEPT_FOR]
    heading = "deleted" if delete else "would delete"
    facts = {heading: [r.to_dict() for r in removed], "kept": [r.to_dict() for r in kept]}
    return show(facts | {"MB": round(sum(run.size for run in removed) / 1e6, 1)}, json_out)


def _area(field: str | None, bbox: str | None) -> str:
    """The field or box as text, whichever of the two options was given."""
    if field and not bbox:
        return field
    if bbox and not field:
        from satfuse.geometry.grids import parse_bbox

        parse_bbox(bbox)
        return bbox
    raise ConfigError("name the area by exactly one of --field NAME and --bbox W,S,E,N")


def _days(date: str | None, start: str | None, end: str | None) -> tuple[str, str]:
    """First and last day of the search."""
    if date is not None and start is None and end is None:
        return date, date
    if date is None and start is not None and end is not None:
        return start, end
    raise ConfigError("name the days by --date YYYY-MM-DD, or by both --start and --end")
