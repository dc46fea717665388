"""What the report on one product says: its tables and captions."""

from pathlib import Path

from satfuse.validate.look import TITLES
from satfuse.validate.markup import Picture, Table, text

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

CAPTIONS = {
    "quicklook": "Sentinel-2, Sentinel-3 and fused under one stretch (665, 560, 490 nm), and spectra of marked pixels.",
    "composites": "True colour (665, 560, 490 nm) and false colour (865, 665, 560 nm); a row shares one stretch.",
    "consistency": "RMSE per band. Above: degraded to the coarse grid against the Sentinel-3 input. Below: mixed to "
    "the Sentinel-2 bands by a linear map fitted at coarse scale, against Sentinel-2.",
    "spectra": "Mean spectra over the valid pixels; dotted: one standard deviation.",
    "ndvi": "NDVI of Sentinel-2 (B08, B04) and of the product (mean of Oa17, S3N, Oa18 and of S2N, Oa08, Oa09), and "
    "how well areas above a threshold agree.",
    "power": "Fourier spectra at 665 nm in a window of adjacent pixels. Above: log power in two dimensions; the square "
    "is the coarse Nyquist frequency, beyond which Sentinel-3 holds nothing. Below: what lies below the blue line at "
    "high frequency is missing detail; coherence tells whether the detail is that of Sentinel-2.",
    "uncertainty": "Standard deviation of the errors as the product states it. Points, where the truth is known: the "
    "errors in a window of adjacent pixels.",
    "vegetation": "The land-cover map, where NDVI of the product agrees with its vegetation, and the Jaccard index "
    "over the threshold; bars: 95 % interval, blocks resampled.",
    "classes": "Mean spectra of the classes of the land-cover map with one standard deviation (dotted). Sentinel-3: "
    "pixels of which the class covers at least half.",
}

READING = (
    "A product close to its coarse input proves little: S3 is an input, and bicubic upsampling without any detail "
    "scores near-perfect cosine and SSIM. Read every number beside the rows bicubic S3 (no detail) and S2 mixed (guide "
    "bands mixed linearly, without residual), and look at both sides: coarse (spectra) and guide (detail). Power is 1 "
    "where the product is as sharp as Sentinel-2, coherence 1 where its detail is that of Sentinel-2. RMSE, bias and "
    "Euclidean distance are in reflectance."
)


def blocks(result: dict, drawn: dict[str, Path]) -> list[Table | Picture]:
    """Tables and pictures of the report in reading order; `drawn` names the PNG files."""
    pictures = [
        Picture(path=drawn[name], caption=caption)
        for name, caption in CAPTIONS.items()
        if name in drawn
    ]
    first, *rest = _tables(result)
    return [pictures[0], first, *pictures[1:], *rest]


def summary_table(result: dict) -> Table:
    """The table that sums a report up: one row per score, the fused product beside each yardstick."""
    images = list(result["coarse_consistency"])
    rows = []
    for title, section, keys, form in SUMMARY:
        if not result[section]:
            continue
        rows.append([title, *(text(pick(result[section][image], keys), form) for image in images)])
    return Table(title="Scores", header=["score", *(TITLES[i] for i in images)], rows=rows)


def pick(scores, keys: tuple[str, ...]):
    """What stands below the keys of nested scores."""
    for key in keys:
        scores = scores[key]
    return scores


def band_table(result: dict, section: str, title: str) -> Table:
    """The scores per band of a section ("coarse_consistency", "guide_consistency")."""
    images = result[section]
    fused = images["fused"]["bands"]
    keys = list(next(iter(fused.values())))
    others = [i for i in images if i != "fused"]
    header = ["band", *keys, *(f"RMSE {TITLES[i]}" for i in others)]
    rows = [
        [
            band,
            *(text(row[k]) for k in keys),
            *(text(images[i]["bands"][band]["rmse"]) for i in others),
        ]
        for band, row in fused.items()
    ]
    return Table(title=title, header=header, rows=rows)


def vegetation_table(agreement: dict) -> Table:
    """Vegetation by NDVI against that of the land-cover map."""
    title = (
        f"NDVI > {agreement['threshold']} against the vegetation of the land-cover map ({agreement['pixels']} pixels, "
        f"{agreement['vegetated']:.1%} of them vegetation, {agreement['blocks']} blocks)"
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
    header = ["image", "Jaccard index", "95 %", "mean with the rest", "minus Sentinel-2", "95 %"]
    return Table(title=title, header=header, rows=rows)


def class_table(classes: dict) -> Table:
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


def uncertainty_table(scores: dict) -> Table:
    """What the product says of its errors and, with the truth, how many keep to it."""
    keys = {"mean": ("mean", "{:.5f}"), "rmse": ("RMSE", "{:.5f}")}
    keys |= {f"within_{n}": (f"errors within {n} sigma", "{:.1%}") for n in (1, 2)}
    keys = {key: told for key, told in keys.items() if key in scores["overall"]}
    rows = [
        [name, *(text(row.get(key), form) for key, (_, form) in keys.items())]
        for name, row in {"all": scores["overall"], **scores["bands"]}.items()
    ]
    return Table(
        title="Uncertainty", header=["band", *(title for title, _ in keys.values())], rows=rows
    )


def _interval(pair, form):
    return "-" if None in pair else f"{form.format(pair[0])} to {form.format(pair[1])}"


def _tables(result):
    seam, spectra = result["seam"], result["spectra"]
    rows = [
        ["coarse pixels compared", "{compared} of {all}".format(**result["coarse_pixels"])],
        [
            "mean spectrum, Jensen-Shannon divergence (natural log) to Sentinel-3",
            text(spectra["jensen_shannon"], "{:.2e}"),
        ],
        ["mean spectrum, angle to Sentinel-3, degrees", text(spectra["sam_deg"], "{:.3f}")],
        ["mean spectrum, bias to Sentinel-3", text(spectra["bias"], "{:+.5f}")],
        [
            f"step across {seam['fused']['edges']} tile edges over steps beside, fused",
            text(seam["fused"]["ratio"], "{:.3f}"),
        ],
        ["the same at the same places, Sentinel-2", text(seam["guide"]["ratio"], "{:.3f}")],
    ]
    tables = [summary_table(result)]
    tables += [vegetation_table(result["vegetation"])] if result["vegetation"] else []
    tables += [class_table(result["classes"])] if result["classes"] else []
    tables += [uncertainty_table(result["uncertainty"])] if result["uncertainty"] else []
    return [
        *tables,
        Table(title="Further numbers", header=["number", "value"], rows=rows),
        band_table(result, "coarse_consistency", "Against Sentinel-3, per band"),
        band_table(result, "guide_consistency", "Against Sentinel-2, per band"),
    ]
