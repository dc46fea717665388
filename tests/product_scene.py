"""A small synthetic scene with known truth, for the tests of inference and product."""

import numpy as np
import xarray as xr
from odc.geo.xr import xr_coords

from satfuse.geometry.grids import coarse_geobox, snap_geobox
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, degrade
from satfuse.sensors.quality import Quality
from satfuse.simulate.scenes.factory import biome_scene
from satfuse.simulate.scenes.protocol import Protocol

RATIO = 30


def truth(shape, bands, seed=0):
    """(band, y, x) float32: a few spectra mixed by smooth fields with a sharp edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    fields = [0.5 + 0.4 * np.sin(x / a + y / b) for a, b in ((37, 91), (140, 23), (15, 18))]
    fields.append(((x + 2 * y) % 400 > 200).astype(float))
    spectra = rng.uniform(0, 0.12, (bands, 4))
    return (0.05 + np.einsum("bf,fyx->byx", spectra, np.stack(fields))).astype("float32")


def make_scene(width_m=6000, height_m=4800, holes=True, left=388800):
    """A Dataset as `satfuse.scene.make_scene` gives it; with holes in guide and coarse image."""
    geobox = snap_geobox("EPSG:32631", left, 3394500, left + width_m, 3394500 + height_m)
    guide = truth(geobox.shape, 12)
    target = truth(geobox.shape, 21, seed=1)
    coarse = degrade(target, RATIO)
    guide_valid = np.ones(geobox.shape, bool)
    coarse_valid = np.ones(coarse.shape[1:], bool)
    if holes:
        guide_valid[100:180, 290:333] = False
        guide_valid[:40, :25] = False
        coarse_valid[3:5, 8:11] = False
        coarse_valid[-1, -2:] = False
    guide_quality = np.where(guide_valid, 0, int(Quality.GUIDE_CLOUD)).astype("uint16")
    coarse_quality = np.where(coarse_valid, 0, int(Quality.COARSE_CLOUD)).astype("uint16")
    guide[:, ~guide_valid] = np.nan
    coarse[:, ~coarse_valid] = np.nan
    coarse_centres = xr_coords(coarse_geobox(geobox, RATIO))
    fine = ("y", "x")
    small = ("y_coarse", "x_coarse")
    scene = xr.Dataset(
        {
            "guide": (("guide_band", *fine), guide),
            "guide_valid": (fine, guide_valid),
            "guide_quality": (fine, guide_quality),
            "coarse": (("coarse_band", *small), coarse),
            "coarse_valid": (small, coarse_valid),
            "coarse_quality": (small, coarse_quality),
        },
        coords={
            **xr_coords(geobox),
            "y_coarse": coarse_centres["y"].values,
            "x_coarse": coarse_centres["x"].values,
            "guide_band": list(S2_NAMES),
            "coarse_band": list(S3_NAMES),
        },
        attrs={
            "psf_sigma": DEFAULT_PSF_SIGMA,
            "shift_m": (0.0, 0.0),
            "shift_trusted": True,
            "gap_s": 42.0,
        },
    )
    for name in ("guide", "guide_valid", "guide_quality"):
        scene[name].attrs["grid_mapping"] = "spatial_ref"
    return scene, target


def make_crops():
    """The scene with its holes at 360 px, with spectra of real surfaces, and its truth.

    Oa05 has no coarse data.
    """
    scene, _ = make_scene(3600, 3600)
    observed = biome_scene("crop", ratio=RATIO, protocol=Protocol(noise=0.002), seed=3, fine_px=360)
    for name, image in (("guide", observed.guide), ("coarse", observed.coarse[0])):
        scene[name] = scene[name].copy(data=np.where(scene[f"{name}_valid"], image, np.nan))
    scene.coarse[S3_NAMES.index("Oa05")] = np.nan
    return scene, observed.target
