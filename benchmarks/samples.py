"""What satfuse reads from the real samples: a table of facts and one figure for each.

    python -m benchmarks.samples NAME [--out DIR]

NAME is senegal, sweden, thailand, ireland, congo, potsdam, coast or all. The samples are read from
$SATFUSE_SAMPLE_DATA, by default ../shared/data. docs/samples.md explains the numbers. The figures
go to benchmarks/out, which is not part of the repository.
"""

import argparse
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pystac
import rasterio
import xarray as xr
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin

from benchmarks import sample_data
from benchmarks.document import ROOT
from benchmarks.sample_figures import draw_spectra, panels, rgb
from satfuse import cube as cubes
from satfuse.arrays import FloatArray, IntArray
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import RadiometryError, ReadError
from satfuse.geometry.grids import geobox_of_bbox
from satfuse.geometry.resample import block_mean
from satfuse.geometry.shift import ShiftEstimate, estimate_shift
from satfuse.geometry.swath import locate, rectify
from satfuse.readers.enmap import enmap_item, open_enmap
from satfuse.readers.sentinel2 import metadata, open_sentinel2, safe_item
from satfuse.sensors.quality import Quality
from satfuse.simulate.scenes.library import sample_folder

PHASES_M = ((0, 0), (80, 80), (160, 160), (240, 240))  # quarters of a preview pixel
FALSE_COLOUR = ("Oa17", "Oa08", "Oa06")  # 865, 665, 560 nm
Facts = dict[str, str]


def main() -> None:
    """Print the facts of the named samples and write their figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=(*SAMPLES, "all"))
    out = ROOT / "benchmarks/out"
    parser.add_argument("--out", type=Path, default=out, help="folder of the figures")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)  # missing files are among the facts
    for name in SAMPLES if options.name == "all" else [options.name]:
        facts = show(name, options.out, sample_folder())
        print(listed(name, facts), flush=True)


def show(name: str, out: Path, folder: Path) -> Facts:
    """Read a sample, write its figure to OUT/NAME.png, return its facts."""
    with tempfile.TemporaryDirectory() as work:
        facts, figure = SAMPLES[name](folder, Path(work))
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=100)
    return facts


def listed(name: str, facts: Facts) -> str:
    """The facts for the terminal, one per line."""
    return "\n".join([name, *(f"  {key}: {value}" for key, value in facts.items())])


def senegal(folder: Path, work: Path) -> tuple[Facts, Figure]:
    """SYN against the scene classification and the preview of Sentinel-2, one day apart."""
    swath = sample_data.senegal(folder, work / "sen3")
    classes = sample_data.senegal_classes(folder)
    preview = sample_data.senegal_preview(folder, work / "safe")
    image = rectify(swath, sample_data.T28PDC)
    covers = ((sample_data.VEGETATION, sample_data.BARE), 6, 0)  # land, water, no data
    land, water, empty = (block_mean(np.isin(classes, c).astype(float), 15) for c in covers)
    compared = image["valid"].values & (empty == 0)
    shares = f"{(land[compared] > 0.5).mean():.1%} / {(water[compared] > 0.5).mean():.1%}"
    missing = [read.asset for read in swath.attrs["ledger"] if read.status == "missing"]
    facts = {
        "swath cut to the tile, rows x columns": f"{swath.sizes['row']} x {swath.sizes['column']}",
        "positions": swath.attrs["positions"],
        "clock": f"{swath.attrs['clock']}, first row {str(swath['time'].values[0])[:23]}",
        "not read": ", ".join(missing),
        "valid pixels on the tile": (
            f"{image['valid'].values.sum()}, {compared.sum()} of them where SCL has data"
        ),
        "of these land / water by SCL": shares,
        **dict(_senegal_shifts(swath, preview, classes)),
    }
    images = {
        "SYN 2023-09-12: 865, 665, 560 nm": rgb(
            image["reflectance"].sel(band=list(FALSE_COLOUR)).values
        ),
        "preview of Sentinel-2, 2023-09-11": rgb(preview),
        "share of land by SCL, 2023-09-11": np.where(empty == 0, land, np.nan),
    }
    return facts, panels(images)


def _senegal_shifts(
    swath: xr.Dataset, preview: FloatArray, classes: IntArray
) -> Iterator[tuple[str, str]]:
    """The shift against each reference, and its spread over grids moved by `PHASES_M`."""
    estimates = [sample_data.senegal_shifts(swath, preview, classes, p) for p in PHASES_M]
    for name, first in estimates[0].items():
        shifts = np.array([(e[name].dx_m, e[name].dy_m) for e in estimates])
        shifts += PHASES_M  # back to the grid that was not moved
        yield (
            f"shift against {name}, m east, north",
            f"{_pair(*shifts[0])}, sigma {first.sigma_m:.0f}",
        )
        yield (
            f"the same from 4 grid phases, {name}",
            f"{_pair(*shifts.mean(0))}, spread {_pair(*shifts.std(0))}",
        )


def sweden(folder: Path, _: Path) -> tuple[Facts, Figure]:
    """A real swath: positions, repeated pixels, one resampling, and a known move."""
    swath = sample_data.sweden(folder)
    positions = np.stack([swath["latitude"].values.ravel(), swath["longitude"].values.ravel()])
    repeated = positions.shape[1] - np.unique(positions, axis=1).shape[1]
    box = geobox_of_bbox((16.8, 58.9, 17.2, 59.1), resolution=300)
    image, moved = (rectify(swath, box, m)["reflectance"].values for m in ((0, 0), (-250.0, 390.0)))
    # another band, gain and offset, so that only the ground is common
    shift = estimate_shift(image[[0, 1]], 1.2 * moved[[2]] + 0.01, pixel_m=300)
    rows = locate(swath["latitude"].values, swath["longitude"].values, box)[0]
    facts = {
        "swath, rows x columns": f"{swath.sizes['row']} x {swath.sizes['column']}",
        "pixels that repeat the place of another": str(repeated),
        "300 m grid": (
            f"{box.shape[0]} x {box.shape[1]}, {np.isfinite(rows).mean():.0%} inside the swath"
        ),
        "shift of a move by (250, -390) m": f"{_vector(shift)}, sigma {shift.sigma_m:.0f}",
    }
    colours = [2, 1, 0]
    images = {
        "swath: 665, 560, 443 nm": rgb(swath["reflectance"].values[colours]),
        "300 m grid": rgb(image[colours]),
    }
    return facts, panels(images)


def thailand(folder: Path, work: Path) -> tuple[Facts, Figure]:
    """All 12 bands of Sentinel-2, the offset, and the grids on which the bands fit each other."""
    item = sample_data.thailand(folder, work)
    spec = sample_data.catalogue(work)
    inside = GeoBox((1000, 1000), from_origin(362700, 1987000, 10, 10), "EPSG:32648")
    image = open_sentinel2(item, inside, spec=spec, boa_offset=0).compute()["reflectance"]
    with rasterio.open(work / "B03.tif") as raster:
        darkest = int(raster.read(1).min())
    medians = zip(image.band.values, image.median(("y", "x")).values, strict=True)
    facts = {
        "smallest digital number of B03": str(darkest),
        "median reflectance": ", ".join(f"{band} {median:.3f}" for band, median in medians),
        "by the stated baseline 99.99": _offset_by_baseline(item, inside, spec, "B03"),
    }
    pair = ("B08", "B8A")
    on_grids = {
        "true": image.sel(band=list(pair)).values,
        "stored": _thailand_stored(folder, work / "stored", inside, pair),
    }
    for name, bands in on_grids.items():
        fits = correlations(*bands.astype(float))
        east, north = best = max(fits, key=fits.__getitem__)
        facts[f"B8A fits B08 best moved by, {name} grids"] = (
            f"({east:+d}, {north:+d}) m, correlation {fits[best]:.4f}"
        )
    colours = {"B04, B03, B02": ["B04", "B03", "B02"], "B12, B8A, B05": ["B12", "B8A", "B05"]}
    return facts, panels({title: rgb(image.sel(band=b).values) for title, b in colours.items()})


def _thailand_stored(folder: Path, work: Path, box: GeoBox, names: tuple[str, ...]) -> FloatArray:
    """Bands of the Thailand cell read with the transform that its files state."""
    work.mkdir()
    corners = sample_data.THAILAND_STORED
    item = sample_data.thailand(folder, work, corners=corners, names=names)
    spec = sample_data.catalogue(work)
    return open_sentinel2(item, box, spec=spec, bands=names, boa_offset=0)["reflectance"].values


def correlations(fine: FloatArray, other: FloatArray) -> dict[tuple[int, int], float]:
    """Correlation of two 10 m images, the second moved by (east, north) -10, 0 or 10 m."""
    inner = other[10:-10, 10:-10].ravel()
    size_y, size_x = fine.shape
    return {
        (10 * dx, -10 * dy): np.corrcoef(
            fine[10 + dy : size_y - 10 + dy, 10 + dx : size_x - 10 + dx].ravel(), inner
        )[0, 1]
        for dx in (-1, 0, 1)
        for dy in (-1, 0, 1)
    }


def ireland(folder: Path, work: Path) -> tuple[Facts, Figure]:
    """A SAFE tree without its band images: metadata, clouds, names of missing files."""
    item = safe_item(sample_data.unpack(folder, "s2_safe_29UNU/*.zip", work))
    spec = sample_data.catalogue(work)
    meta = metadata(item, spec)
    with rasterio.open(item.assets["SCL_60m"].href) as raster:
        box = GeoBox(raster.shape, raster.transform, raster.crs)
    try:
        open_sentinel2(item, box, spec=spec, bands=("B02",))
    except ReadError as error:
        refusal = str(error).split("; it has")[0]
    item.assets["SCL_20m"] = item.assets["SCL_60m"]  # the sample has the 60 m layer only
    image = open_sentinel2(item, box, spec=spec, bands=()).compute()
    flags = [flag for flag in Quality if str(flag.name).startswith("GUIDE")]
    shares = {str(flag.name): ((image["quality"].values & flag) > 0).mean() for flag in flags}
    zenith = f"{meta.sun_zenith_deg:.2f}, {meta.view_zenith_deg:.2f}"
    assert meta.offsets is not None, "the sample has its metadata"
    facts = {
        "platform, baseline, offset of B02": (
            f"{meta.platform}, {meta.baseline}, {meta.offsets['B02']}"
        ),
        "sensing time": f"{meta.sensing_time:%Y-%m-%d %H:%M:%S.%f} ({meta.clock})",
        "sun zenith, view zenith and azimuth": f"{zenith}, {meta.view_azimuth_deg:.1f} degrees",
        "B02": refusal,
        "valid": f"{image['valid'].values.mean():.1%}",
        "quality": ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share),
    }
    images = {"scene classification": image["scl"].values, "valid": image["valid"].values}
    return facts, panels(images)


def congo(folder: Path, work: Path) -> tuple[Facts, Figure]:
    """Unmasked cirrus: the offset, the reflectance, and a registration that would follow clouds."""
    item = sample_data.congo(folder, work)
    spec = sample_data.catalogue(work)
    left, top, crs = sample_data.congo_corner(folder)
    box = GeoBox((500, 500), from_origin(left, top, 10, 10), crs)
    names = ("B02", "B8A")
    image, without_offset = (
        open_sentinel2(item, box, spec=spec, bands=names, boa_offset=offset).compute()
        for offset in (-1000, 0)
    )
    with rasterio.open(next(folder.glob("s2_l2a_congo_cirrus/S2A*/cloud_mask.tif"))) as raster:
        masked = (raster.read(1) > 0).mean()
    blue, infrared = block_mean(image["reflectance"].values, 2)  # B8A has pixels of 20 m
    shift = estimate_shift(blue[None], infrared[None], pixel_m=20)
    medians = [float(i["reflectance"].sel(band="B02").median()) for i in (image, without_offset)]
    facts = {
        "median of B02 with the offset of -1000 / without": f"{medians[0]:.3f} / {medians[1]:.3f}",
        "by the stated baseline 04.00": _offset_by_baseline(item, box, spec, "B02"),
        "cloud by the mask of the data set": f"{masked:.0%}",
        "B02 above 0.1": f"{float((image['reflectance'][0] > 0.1).mean()):.0%}",
        "B8A against B02, m east, north": _vector(shift),
        "that shift is": "trusted" if shift.trusted else f"not trusted: {shift.reason}",
    }
    return facts, panels({name: image["reflectance"].sel(band=name).values for name in names})


def potsdam(folder: Path, work: Path) -> tuple[Facts, Figure]:
    """EnMAP: the reader, the bands to leave out, and both sensors simulated from it in a cube."""
    from benchmarks.quality.potsdam import build_cube  # needs torch

    paths = sorted((folder / "enmap_potsdam_block_s/images").glob("*.tif"))
    spec = sample_data.catalogue(folder)
    tiles = [open_enmap(enmap_item(path), spec=spec, missing="flag") for path in paths]
    usable = tiles[0]["usable"].values
    wavelength = tiles[0]["wavelength_nm"].values
    images = [tile[["reflectance"]] for tile in tiles]
    mosaic = xr.combine_by_coords(images, join="outer", combine_attrs="override")
    block = mosaic["reflectance"].sortby("y", ascending=False).load()
    size = f"{block.sizes['y']} x {block.sizes['x']} px"
    values = block.values[usable]
    values = values[np.isfinite(values)]
    backward = map(str, np.flatnonzero(np.diff(wavelength) <= 0) + 1)
    cube = build_cube(folder, work / "cube.zarr")
    east = cube.open_scene("east", decode=True).load()
    facts = {
        "block": f"{len(tiles)} tiles, {size}, {usable.sum()} of {usable.size} bands usable",
        "left out": f"bands {', '.join(map(str, tiles[0]['band'].values[~usable]))}",
        "wavelengths step back after band": ", ".join(backward),
        "exactly 0 / below 0 in usable bands": (
            f"{(values == 0).mean():.2%} / {(values < 0).mean():.4%}"
        ),
        "cube": f"{len(cube.guide_bands)} guide and {len(cube.coarse_bands)} target bands",
        "bands that EnMAP does not reach": ", ".join(cube.missing_bands),
        "east, mean of B04 / Oa08, B8A / Oa17": (
            f"{_means(east, 'B04', 'Oa08')}, {_means(east, 'B8A', 'Oa17')}"
        ),
    }
    colours = [int(np.abs(wavelength - nm).argmin()) for nm in (865, 665, 560)]
    figure = panels({"EnMAP block, 865, 665, 560 nm": rgb(block.values[colours])}, extra=1)
    draw_spectra(figure.axes[1], wavelength, usable, east, block)
    return facts, figure


def _means(scene: xr.Dataset, guide_band: str, band: str) -> str:
    """Mean of a guide band and of a coarse band of a scene of a cube."""
    guide = float(scene["guide"].sel(guide_band=guide_band).mean())
    return f"{guide:.4f} / {float(scene['target'].sel(band=band).mean()):.4f}"


def coast(folder: Path, work: Path) -> tuple[Facts, Figure]:
    """EnMAP over water: unreadable without wavelengths; with borrowed ones, dead and dark bands."""
    (source,) = (folder / "enmap_coast_patch").iterdir()
    try:
        open_enmap(enmap_item(source), spec=sample_data.catalogue(folder))
    except ReadError as error:
        refusal = str(error).split("; put")[0]
    item = enmap_item(sample_data.coast_with_wavelengths(folder, work))
    image = open_enmap(item, spec=sample_data.catalogue(work)).load()
    reflectance = image["reflectance"].values
    dead = np.isnan(reflectance).all((1, 2))
    values = reflectance[np.isfinite(reflectance)]
    cube = cubes.build({"coast": image}, work / "cube.zarr", split={"coast": "train"})
    target = cube.open_scene("coast", decode=True)["target"].load()
    bands = ("Oa04", "Oa06", "Oa08", "Oa17")
    means = [f"{float(target.sel(band=band).mean()):.4f}" for band in bands]
    facts = {
        "as delivered": refusal,
        "bands without data, found in the image": _ranges(image["band"].values[dead]),
        "negative values": f"{(values < 0).mean():.1%}",
        "valid by the quality layers": f"{image['valid'].values.mean():.0%}",
        f"cube, mean of {', '.join(bands)}": ", ".join(means),
        "cube, valid": f"{float(target.notnull().all('band').mean()):.1%}",
    }
    return facts, panels({f"{b}, simulated": target.sel(band=b).values for b in ("Oa06", "Oa17")})


SAMPLES = {f.__name__: f for f in (senegal, sweden, thailand, ireland, congo, potsdam, coast)}


def _offset_by_baseline(item: pystac.Item, box: GeoBox, spec: CatalogSpec, band: str) -> str:
    """The offset that follows from the baseline, as for services that ship no metadata.

    The reader checks it against the darkest digital numbers, and may refuse.
    """
    spec = replace(spec, radiometry={"sentinel2": "baseline"})
    try:
        return str(open_sentinel2(item, box, spec=spec, bands=(band,)).attrs["offsets"][0][band])
    except (RadiometryError, ReadError) as error:
        return f"refused: {error}".removeprefix(f"refused: {item.id}: ")


def _vector(shift: ShiftEstimate) -> str:
    return _pair(shift.dx_m, shift.dy_m)


def _pair(x: float, y: float) -> str:
    return f"({x:+.0f}, {y:+.0f})"


def _ranges(numbers: IntArray) -> str:
    """Sorted whole numbers as ranges: 3-5, 9-9."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{part[0]}-{part[-1]}" for part in parts)


if __name__ == "__main__":
    main()
