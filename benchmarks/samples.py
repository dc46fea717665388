"""What satfuse makes of the real samples: a table of facts and one picture for each.

    python -m benchmarks.samples NAME [--out DIR]

NAME is senegal, sweden, thailand, ireland, congo, potsdam, coast or all.
The samples are read where they lie ($SATFUSE_SAMPLE_DATA, by default ../shared/data). docs/samples.md explains the
numbers. The pictures go to benchmarks/out, which is not part of the repository.
"""

import argparse
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin

from benchmarks import sample_data
from benchmarks.document import ROOT
from benchmarks.sample_pictures import panels, rgb, spectra
from satfuse import cube as cubes
from satfuse.errors import RadiometryError, ReadError
from satfuse.geometry.grids import geobox_of_bbox
from satfuse.geometry.shift import estimate_shift
from satfuse.geometry.swath import locate, rectify
from satfuse.readers.enmap import enmap_item, open_enmap
from satfuse.readers.sentinel2 import metadata, open_sentinel2, safe_item
from satfuse.sensors.quality import Quality
from satfuse.simulate.scenes.library import sample_folder

PHASES_M = ((0, 0), (80, 80), (160, 160), (240, 240))  # quarters of a preview pixel
Facts = dict[str, str]


def senegal(folder: Path, work: Path) -> tuple[Facts, Figure]:
    """SYN against the scene classification and the preview of Sentinel-2, one day apart."""
    swath, classes = sample_data.senegal(folder, work / "sen3"), sample_data.senegal_classes(folder)
    preview = sample_data.senegal_preview(folder, work / "safe")
    image = rectify(swath, sample_data.T28PDC)
    share = np.stack(
        [np.isin(classes, c).reshape(366, 15, 366, 15).mean((1, 3)) for c in ((4, 5), 6, 0)]
    )
    seen = image["valid"].values & (share[2] == 0)
    facts = {
        "swath cut to the tile, rows x columns": f"{swath.sizes['row']} x {swath.sizes['column']}",
        "positions": swath.attrs["positions"],
        "clock": f"{swath.attrs['clock']}, first row {str(swath['time'].values[0])[:23]}",
        "not read": ", ".join(r.asset for r in swath.attrs["ledger"] if r.status == "missing"),
        "valid pixels on the tile": f"{image['valid'].values.sum()}, {seen.sum()} of them where SCL has data",
        "of these land / water by SCL": f"{(share[0][seen] > 0.5).mean():.1%} / {(share[1][seen] > 0.5).mean():.1%}",
    }
    found = [sample_data.senegal_shifts(swath, preview, classes, phase) for phase in PHASES_M]
    for name in found[0]:
        each = np.array([(f[name].dx_m, f[name].dy_m) for f in found]) + PHASES_M
        facts[f"shift against {name}, m east, north"] = (
            f"{_pair(each[0])}, sigma {found[0][name].sigma_m:.0f}"
        )
        facts[f"the same from 4 grid phases, {name}"] = (
            f"{_pair(each.mean(0))}, spread {_pair(each.std(0))}"
        )
    false_colour = rgb(image["reflectance"].sel(band=["Oa17", "Oa08", "Oa06"]).values)
    land = np.where(share[2] == 0, share[0], np.nan)
    titles = (
        "SYN 2023-09-12: 865, 665, 560 nm",
        "preview of Sentinel-2, 2023-09-11",
        "share of land by SCL, 2023-09-11",
    )
    return facts, panels(dict(zip(titles, (false_colour, rgb(preview), land), strict=True)))


def sweden(folder: Path, work: Path) -> tuple[Facts, Figure]:
    """A real swath: positions, repeated pixels, one resampling, and a known move."""
    swath = sample_data.sweden(folder)
    places = np.stack([swath["latitude"].values.ravel(), swath["longitude"].values.ravel()])
    box = geobox_of_bbox((16.8, 58.9, 17.2, 59.1), resolution=300)
    here, moved = (rectify(swath, box, m)["reflectance"].values for m in ((0, 0), (-250.0, 390.0)))
    shift = estimate_shift(here[[0, 1]], 1.2 * moved[[2]] + 0.01, pixel_m=300)
    rows, _ = locate(swath["latitude"].values, swath["longitude"].values, box)
    facts = {
        "swath, rows x columns": f"{swath.sizes['row']} x {swath.sizes['column']}",
        "pixels that repeat the place of another": f"{places.shape[1] - len(np.unique(places, axis=1).T)}",
        "300 m grid": f"{box.shape[0]} x {box.shape[1]}, {np.isfinite(rows).mean():.0%} inside the swath",
        "shift of a move by (250, -390) m": f"{_pair((shift.dx_m, shift.dy_m))}, sigma {shift.sigma_m:.0f}",
    }
    bands = [2, 1, 0]
    return facts, panels(
        {
            "swath: 665, 560, 443 nm": rgb(swath["reflectance"].values[bands]),
            "300 m grid": rgb(here[bands]),
        }
    )


def thailand(folder: Path, work: Path) -> tuple[Facts, Figure]:
    """All 12 bands of Sentinel-2, the offset, and the grids on which the bands fit each other."""
    item, spec = sample_data.thailand(folder, work), sample_data.catalogue(work)
    inside = GeoBox((1000, 1000), from_origin(362700, 1987000, 10, 10), "EPSG:32648")
    image = open_sentinel2(item, inside, spec=spec, boa_offset=0).compute()["reflectance"]
    with rasterio.open(work / "B03.tif") as raster:
        darkest = int(raster.read(1).min())
    facts = {
        "smallest digital number of B03": str(darkest),
        "median reflectance": ", ".join(
            f"{b} {m:.3f}"
            for b, m in zip(image.band.values, image.median(("y", "x")).values, strict=True)
        ),
        "by the stated baseline 99.99": _offset_of(item, inside, spec, "B03"),
    }
    work = work / "stored"
    work.mkdir()
    stored = sample_data.thailand(
        folder, work, corners=sample_data.THAILAND_STORED, names=("B08", "B8A")
    )
    stored = open_sentinel2(stored, inside, spec=spec, bands=("B08", "B8A"), boa_offset=0)[
        "reflectance"
    ].values
    for name, bands in (("true", image.sel(band=["B08", "B8A"]).values), ("stored", stored)):
        fits = correlations(*bands.astype(float))
        best = max(fits, key=fits.get)
        facts[f"B8A fits B08 best moved by, {name} grids"] = (
            f"({best[0]:+d}, {best[1]:+d}) m, correlation {fits[best]:.4f}"
        )
    colours = {"B04, B03, B02": ["B04", "B03", "B02"], "B12, B8A, B05": ["B12", "B8A", "B05"]}
    return facts, panels({title: rgb(image.sel(band=b).values) for title, b in colours.items()})


def correlations(fine: np.ndarray, other: np.ndarray) -> dict[tuple[int, int], float]:
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
    """A SAFE tree without its band images: metadata, the missing file by name, clouds and the orbit's edge."""
    item, spec = (
        safe_item(sample_data.unpack(folder, "s2_safe_29UNU/*.zip", work)),
        sample_data.catalogue(work),
    )
    meta = metadata(item, spec)
    with rasterio.open(item.assets["SCL_60m"].href) as raster:
        box = GeoBox(raster.shape, raster.transform, raster.crs)
    try:
        open_sentinel2(item, box, spec=spec, bands=("B02",))
    except ReadError as error:
        refusal = str(error).split("; it has")[0]
    item.assets["SCL_20m"] = item.assets["SCL_60m"]  # the sample has the 60 m layer only
    image = open_sentinel2(item, box, spec=spec, bands=()).compute()
    share = {
        q.name: ((image["quality"].values & q) > 0).mean()
        for q in Quality
        if q.name.startswith("GUIDE")
    }
    zenith, view = meta.sun_zenith_deg, (meta.view_zenith_deg, meta.view_azimuth_deg)
    facts = {
        "platform, baseline, offset of B02": f"{meta.platform}, {meta.baseline}, {meta.offsets['B02']}",
        "sensing time": f"{meta.sensing_time:%Y-%m-%d %H:%M:%S.%f} ({meta.clock})",
        "sun zenith, view zenith and azimuth": f"{zenith:.2f}, {view[0]:.2f}, {view[1]:.1f} degrees",
        "B02": refusal,
        "valid": f"{image['valid'].values.mean():.1%}",
        "quality": ", ".join(f"{k} {v:.1%}" for k, v in share.items() if v),
    }
    return facts, panels(
        {"scene classification": image["scl"].values, "valid": image["valid"].values}
    )


def congo(folder: Path, work: Path) -> tuple[Facts, Figure]:
    """Cirrus that no mask shows: the offset, the reflectance, and a registration that would lock on the cloud."""
    item, spec = sample_data.congo(folder, work), sample_data.catalogue(work)
    left, top, crs = sample_data.congo_corner(folder)
    box = GeoBox((500, 500), from_origin(left, top, 10, 10), crs)
    names = ("B02", "B8A")
    image, wrong = (
        open_sentinel2(item, box, spec=spec, bands=names, boa_offset=o).compute()
        for o in (-1000, 0)
    )
    with rasterio.open(next(folder.glob("s2_l2a_congo_cirrus/S2A*/cloud_mask.tif"))) as raster:
        masked = (raster.read(1) > 0).mean()
    blue, infrared = image["reflectance"].values.reshape(2, 250, 2, 250, 2).mean((2, 4))
    shift = estimate_shift(blue[None], infrared[None], pixel_m=20)
    medians = [float(i["reflectance"].sel(band="B02").median()) for i in (image, wrong)]
    facts = {
        "median of B02 with the offset of -1000 / without": f"{medians[0]:.3f} / {medians[1]:.3f}",
        "by the stated baseline 04.00": _offset_of(item, box, spec, "B02"),
        "cloud by the mask of the data set": f"{masked:.0%}",
        "B02 above 0.1": f"{float((image['reflectance'][0] > 0.1).mean()):.0%}",
        "B8A against B02, m east, north": _pair((shift.dx_m, shift.dy_m)),
        "that shift is": "trusted" if shift.trusted else f"not trusted: {shift.reason}",
    }
    return facts, panels({n: image["reflectance"].sel(band=n).values for n in names})


def potsdam(folder: Path, work: Path) -> tuple[Facts, Figure]:
    """EnMAP: the reader, the bands to leave out, and both sensors by spectral simulation, as a cube."""
    from benchmarks.quality import potsdam as quality  # needs torch

    paths = sorted((folder / "enmap_potsdam_block_s/images").glob("*.tif"))
    spec = sample_data.catalogue(folder)
    tiles = [open_enmap(enmap_item(p), spec=spec, missing="flag") for p in paths]
    usable, wavelength = tiles[0]["usable"].values, tiles[0]["wavelength_nm"].values
    block = xr.combine_by_coords(
        [t[["reflectance"]] for t in tiles], join="outer", combine_attrs="override"
    )
    block = block["reflectance"].sortby("y", ascending=False).load()
    cube = quality.build_cube(folder, work / "cube.zarr")
    east = cube.open_scene("east", decode=True).load()
    values = block.values[usable]
    size = f"{block.sizes['y']} x {block.sizes['x']} px"
    shown = [int(np.abs(wavelength - nm).argmin()) for nm in (865, 665, 560)]
    values = values[np.isfinite(values)]
    facts = {
        "block": f"{len(tiles)} tiles, {size}, {usable.sum()} of {usable.size} bands usable",
        "left out": f"bands {', '.join(map(str, tiles[0]['band'].values[~usable]))}",
        "wavelengths step back after band": ", ".join(
            map(str, np.flatnonzero(np.diff(wavelength) <= 0) + 1)
        ),
        "exactly 0 / below 0 in usable bands": f"{(values == 0).mean():.2%} / {(values < 0).mean():.4%}",
        "cube": f"{len(cube.guide_bands)} guide and {len(cube.coarse_bands)} target bands",
        "bands that EnMAP does not reach": ", ".join(cube.missing_bands),
        "east, mean of B04 / Oa08, B8A / Oa17": ", ".join(
            f"{float(east['guide'].sel(guide_band=g).mean()):.4f} / {float(east['target'].sel(band=t).mean()):.4f}"
            for g, t in (("B04", "Oa08"), ("B8A", "Oa17"))
        ),
    }
    figure = panels({"EnMAP block, 865, 665, 560 nm": rgb(block.values[shown])}, extra=1)
    spectra(figure.axes[1], wavelength, usable, east, block)
    return facts, figure


def coast(folder: Path, work: Path) -> tuple[Facts, Figure]:
    """EnMAP over water: nothing to read without wavelengths; with lent ones, dead bands and negative values."""
    (source,) = (folder / "enmap_coast_patch").iterdir()
    try:
        open_enmap(enmap_item(source), spec=sample_data.catalogue(folder))
    except ReadError as error:
        refusal = str(error).split("; put")[0]
    item = enmap_item(sample_data.coast_with_wavelengths(folder, work))
    image = open_enmap(item, spec=sample_data.catalogue(work)).load()
    dead = np.isnan(image["reflectance"].values).all((1, 2))
    values = image["reflectance"].values[~dead]
    cube = cubes.build({"coast": image}, work / "cube.zarr", split={"coast": "train"})
    target = cube.open_scene("coast", decode=True)["target"].load()
    facts = {
        "as delivered": refusal,
        "bands without data, found in the image": _runs(image["band"].values[dead]),
        "negative values": f"{(values[np.isfinite(values)] < 0).mean():.1%}",
        "valid by the quality layers": f"{image['valid'].values.mean():.0%}",
        "cube, mean of " + ", ".join(("Oa04", "Oa06", "Oa08", "Oa17")): ", ".join(
            f"{float(target.sel(band=b).mean()):.4f}" for b in ("Oa04", "Oa06", "Oa08", "Oa17")
        ),
        "cube, valid": f"{float(np.isfinite(target).all('band').mean()):.1%}",
    }
    return facts, panels({f"{b}, simulated": target.sel(band=b).values for b in ("Oa06", "Oa17")})


SHOWN = {f.__name__: f for f in (senegal, sweden, thailand, ireland, congo, potsdam, coast)}


def show(name: str, out: Path, folder: Path) -> Facts:
    """Print the facts of a sample and write its picture."""
    with tempfile.TemporaryDirectory() as work:
        facts, figure = SHOWN[name](folder, Path(work))
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=100)
    print(f"{name}\n" + "\n".join(f"  {key}: {value}" for key, value in facts.items()), flush=True)
    return facts


def _offset_of(item, box, spec, band):
    """What the rule for services that ship no metadata decides: by the baseline, checked against the dark numbers."""
    spec = replace(spec, radiometry={"sentinel2": "baseline"})
    try:
        return str(open_sentinel2(item, box, spec=spec, bands=(band,)).attrs["offsets"][0][band])
    except (RadiometryError, ReadError) as error:
        return f"refused: {error}".removeprefix(f"refused: {item.id}: ")


def _pair(xy):
    return f"({xy[0]:+.0f}, {xy[1]:+.0f})"


def _runs(numbers):
    """Whole numbers as ranges: 3-5, 9."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{p[0]}-{p[-1]}" for p in parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=(*SHOWN, "all"))
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/out", help="folder of the pictures"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)  # what is missing is among the facts
    for chosen in SHOWN if arguments.name == "all" else [arguments.name]:
        show(chosen, arguments.out, sample_folder())
