"""Text of the report on one product: its tables and captions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from satfuse.validate.drawing import TITLES
from satfuse.validate.markup import FigureFile, Section, Table, text

SUMMARY = (  # column title, section, keys below it, format
    ("coarse RMSE", "coarse_consistency", ("overall", "rmse"), "{:.5f}"),
    ("coarse bias", "coarse_consistency", ("overall", "bias"), "{:+.5f}"),
    ("coarse SAM deg", "coarse_consistency", ("overall", "sam_deg"), "{:.3f}"),
    ("coarse cosine", "coarse_consistency", ("overall", "cosine"), "{:.6f}"),
    ("coarse Euclidean", "coarse_consistency", ("overall", "euclidean"), "{:.3f}"),
    ("coarse SSIM", "coarse_consistency", ("overall", "ssim"), "{:.4f}"),
    ("guide RMSE", "guide_consistency", ("overall", "rmse"), "{:.5f}"),
    ("guide correlation", "guide_consistency", ("overall", "correlation"), "{:.4f}"),
    ("panchromatic SSIM", "panchromatic_ssim", (), "{:.4f}"),
    ("power low", "sharpness", ("low",), "{:.3f}"),
    ("power medium", "sharpness", ("medium",), "{:.3f}"),
    ("power high", "sharpness", ("high",), "{:.3f}"),
    ("coherence low", "sharpness", ("coherence_low",), "{:.3f}"),
    ("coherence medium", "sharpness", ("coherence_medium",), "{:.3f}"),
    ("coherence high", "sharpness", ("coherence_high",), "{:.3f}"),
    ("half power down to, fine px", "sharpness", ("half_power_px",), "{:.1f}"),
    ("NDVI correlation", "ndvi", ("correlation",), "{:.4f}"),
    ("NDVI RMSE", "ndvi", ("rmse",), "{:.4f}"),
    ("truth SAM deg", "truth", ("sam_deg",), "{:.3f}"),
    ("truth RMSE", "truth", ("rmse",), "{:.5f}"),
    ("truth PSNR dB", "truth", ("psnr_db",), "{:.2f}"),
    ("truth ERGAS", "truth", ("ergas",), "{:.3f}"),
    ("truth SSIM", "truth", ("ssim",), "{:.4f}"),
)

CAPTIONS = {  # in the order of the page
    "quicklook": "Sentinel-2, Sentinel-3 and fused under one stretch (665, 560, 490 nm), and the "
    "spectra of the marked pixels.",
    "composites": "True colour (665, 560, 490 nm) and false colour (865, 665, 560 nm); a row has "
    "one stretch.",
    "consistency": "RMSE per band. Above: degraded to the coarse grid, against the Sentinel-3 "
    "input. Below: mixed to the Sentinel-2 bands by a linear map fitted at coarse scale, against "
    "Sentinel-2.",
    "spectra": "Mean spectra over the valid pixels; dotted: one standard deviation.",
    "ndvi": "NDVI of Sentinel-2 (B08, B04) and of the product (mean of Oa17, S3N, Oa18 and of S2N, "
    "Oa08, Oa09), and the agreement of the areas above a threshold.",
    "power": "Fourier spectra at 665 nm in a window of adjacent pixels. Above: log power in two "
    "dimensions; the square is the coarse Nyquist frequency, beyond which Sentinel-3 has no "
    "information. Below: power below the blue line at high frequency is missing detail; coherence "
    "is the share of the detail that is Sentinel-2's.",
    "uncertainty": "Standard deviation of the errors as the product states it. Points, where the "
    "truth is known: the errors in a window of adjacent pixels.",
    "vegetation": "The land-cover map, the agreement of the product's NDVI with its vegetation, "
    "and the Jaccard index over the threshold; bars: 95 % interval, blocks resampled.",
    "classes": "Mean spectra of the classes of the land-cover map with one standard deviation "
    "(dotted). Sentinel-3: pixels of which the class covers at least half.",
}

READING = (
    "A product close to its coarse input proves little: S3 is an input, and bicubic upsampling "
    "without any detail scores near-perfect cosine and SSIM. Compare every number with the two "
    "baselines, bicubic S3 (no detail) and S2 mixed (guide bands mixed linearly, without "
    "residual), and look at both sides: coarse (spectra) and guide (detail). Power is 1 where the "
    "product is as sharp as Sentinel-2, coherence 1 where its detail is that of Sentinel-2. RMSE, "
    "bias and Euclidean distance are in reflectance."
)


def page_sections(result: dict[str, Any], figure_files: dict[str, Path]) -> list[Section]:
    """Tables and figures of the report in reading order; `figure_files` are the PNG files."""
    captioned = [
        FigureFile(path=figure_files[name], caption=caption)
        for name, caption in CAPTIONS.items()
        if name in figure_files
    ]
    first, *others = _tables(result)
    # quicklook, summary, then the details
    return [captioned[0], first, *captioned[1:], *others]


def summary_table(result: dict[str, Any]) -> Table:
    """The main table: one row per score, the fused product next to the baselines."""
    images = list(result["coarse_consistency"])
    rows = [
        [title, *(text(pick(result[section][image], keys), form) for image in images)]
        for title, section, keys, form in SUMMARY
        if result[section]
    ]
    return Table(title="Scores", header=["score", *(TITLES[i] for i in images)], rows=rows)


def pick(scores: Any, keys: Sequence[str]) -> float | None:
    """The value below the keys of nested scores."""
    for key in keys:
        scores = scores[key]
    return scores


def band_table(result: dict[str, Any], section: str, title: str) -> Table:
    """The scores per band of a section ("coarse_consistency", "guide_consistency")."""
    images = result[section]
    fused = images["fused"]["bands"]
    keys = list(next(iter(fused.values())))
    baselines = [i for i in images if i != "fused"]
    rows = [
        [band, *(text(row[k]) for k in keys)]
        + [text(images[i]["bands"][band]["rmse"]) for i in baselines]
        for band, row in fused.items()
    ]
    header = ["band", *keys, *(f"RMSE {TITLES[i]}" for i in baselines)]
    return Table(title=title, header=header, rows=rows)


def vegetation_table(agreement: dict[str, Any]) -> Table:
    """Vegetation by NDVI against that of the land-cover map."""
    title = (
        f"NDVI > {agreement['threshold']} against the vegetation of the land-cover map "
        f"({agreement['pixels']} pixels, {agreement['vegetated']:.1%} of them vegetation, "
        f"{agreement['blocks']} blocks)"
    )
    rows = [
        [
            TITLES[name],
            text(row["jaccard"], "{:.4f}"),
            _interval(row["interval"], "{:.4f}"),
            text(row["macro"], "{:.4f}"),
            text(row["minus_guide"], "{:+.4f}"),
            _interval(row["minus_guide_interval"], "{:+.4f}"),
        ]
        for name, row in agreement["images"].items()
    ]
    macro = "mean with that of no vegetation"
    header = ["image", "Jaccard index", "95 %", macro, "minus Sentinel-2", "95 %"]
    return Table(title=title, header=header, rows=rows)


def class_table(classes: dict[str, Any]) -> Table:
    """Angles and divergences of the classes of the land-cover map."""
    sides = {"guide": "to S2", "coarse": "to S3"}
    images = list(next(iter(classes.values()))["guide"])
    header = ["class", "pixels", "S3 pixels"]
    header += [f"SAM {at}, deg, {TITLES[i]}" for at in sides.values() for i in images]
    header += [f"J-S {at}, {TITLES[i]}" for at in sides.values() for i in images]
    rows = [
        [name, str(row["pixels"]), str(row["coarse_pixels"])]
        + [text(row[side][i]["sam_deg"], "{:.3f}") for side in sides for i in images]
        + [text(row[side][i]["jensen_shannon"], "{:.1e}") for side in sides for i in images]
        for name, row in classes.items()
    ]
    return Table(title="Spectra of the classes of the land-cover map", header=header, rows=rows)


def uncertainty_table(scores: dict[str, Any]) -> Table:
    """The stated uncertainty and, with the truth, its coverage."""
    columns = {
        "mean": ("mean", "{:.5f}"),
        "rmse": ("RMSE", "{:.5f}"),
        "within_1": ("errors within 1 sigma", "{:.1%}"),
        "within_2": ("errors within 2 sigma", "{:.1%}"),
    }
    columns = {key: column for key, column in columns.items() if key in scores["overall"]}
    rows = [
        [name, *(text(row.get(key), form) for key, (_, form) in columns.items())]
        for name, row in {"all": scores["overall"], **scores["bands"]}.items()
    ]
    header = ["band", *(title for title, _ in columns.values())]
    return Table(title="Uncertainty", header=header, rows=rows)


def _interval(bounds: Sequence[float | None], form: str) -> str:
    low, high = bounds
    return "-" if low is None or high is None else f"{form.format(low)} to {form.format(high)}"


def _tables(result: dict[str, Any]) -> list[Table]:
    """All tables; those without scores are left out."""
    optional = {
        "vegetation": vegetation_table,
        "classes": class_table,
        "uncertainty": uncertainty_table,
    }
    return [
        summary_table(result),
        *(table(result[section]) for section, table in optional.items() if result[section]),
        _further_table(result),
        band_table(result, "coarse_consistency", "Against Sentinel-3, per band"),
        band_table(result, "guide_consistency", "Against Sentinel-2, per band"),
    ]


def _further_table(result: dict[str, Any]) -> Table:
    """Scores of the product alone: mean spectrum and seams."""
    seam = result["seam"]
    spectra = result["spectra"]
    divergence = "mean spectrum, Jensen-Shannon divergence (natural log) to Sentinel-3"
    step = f"step across {seam['fused']['edges']} tile edges over steps next to them, fused"
    rows = [
        ["coarse pixels compared", "{compared} of {all}".format(**result["coarse_pixels"])],
        [divergence, text(spectra["jensen_shannon"], "{:.2e}")],
        ["mean spectrum, angle to Sentinel-3, degrees", text(spectra["sam_deg"], "{:.3f}")],
        ["mean spectrum, bias to Sentinel-3", text(spectra["bias"], "{:+.5f}")],
        [step, text(seam["fused"]["ratio"], "{:.3f}")],
        ["the same at the same places, Sentinel-2", text(seam["guide"]["ratio"], "{:.3f}")],
    ]
    return Table(title="Further numbers", header=["number", "value"], rows=rows)
