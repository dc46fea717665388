"""Text of the report on several products: its tables and captions."""

from pathlib import Path
from typing import Any

from satfuse.validate.markup import FigureFile, Section, Table, text
from satfuse.validate.page import SUMMARY, pick

READING = (
    "Products go by letters; the others are compared with the first one. The first table gives all "
    "of them next to bicubic S3, which has no detail. Where two products of one pixel size differ "
    "by more than the input data allow, at least one of them shows something that neither input "
    "does. The scene's residual is the part of Sentinel-3 that Sentinel-2's bands, mixed linearly, "
    "do not explain at coarse scale, carried to fine pixels; a deviation is a difference in such "
    "residuals, root mean square over the bands. Missing detail is blur, not hallucination. RMSE "
    "and bias are in reflectance."
)

FURTHER = (  # rows beyond those of one product's summary: title, keys, format
    ("mean spectrum, J-S divergence to S3", ("spectra", "jensen_shannon"), "{:.2e}"),
    ("mean spectrum, angle to S3, deg", ("spectra", "sam_deg"), "{:.3f}"),
    ("mean spectrum, bias to S3", ("spectra", "bias"), "{:+.5f}"),
)

VEGETATION = (  # rows with a land-cover map: title, key, format
    ("Jaccard index, NDVI against the map", "jaccard", "{:.4f}"),
    ("the same minus Sentinel-2's", "minus_guide", "{:+.4f}"),
)

GALLERY = "True colour under one stretch (665, 560, 490 nm)."
SPECTRA = (
    "Mean spectra over the valid pixels, and the difference of their mean and standard deviation "
    "from Sentinel-3's."
)
POWER = (
    "Fourier spectra at 665 nm: power in two dimensions, radially averaged, coherence with "
    "Sentinel-2."
)


def page_sections(result: dict[str, Any], figure_files: dict[str, Path]) -> list[Section]:
    """Tables and figures of the report in reading order; `figure_files` are the PNG files."""
    sections: list[Section] = [
        _product_table(result),
        FigureFile(path=figure_files["gallery"], caption=GALLERY),
        _score_table(result),
        FigureFile(path=figure_files["spectra"], caption=SPECTRA),
    ]
    for pair in result["pairs"]:
        letters = pair["first"] + pair["other"]
        of_pair = _difference_sections if "regions" in pair else _size_sections
        sections += of_pair(pair, figure_files)
        if f"power_{letters}" in figure_files:
            sections.append(FigureFile(path=figure_files[f"power_{letters}"], caption=POWER))
    return sections


def _product_table(result: dict[str, Any]) -> Table:
    rows = [
        [
            p["letter"],
            p["model"],
            p["model_sha256"][:12] or "-",
            f"{p['pixel_m']:g}",
            str(p["ratio"]),
            p["id"],
            p["item"],
        ]
        for p in result["products"]
    ]
    header = ["product", "model", "sha256", "pixel, m", "ratio", "id", "item"]
    return Table(title="Products", header=header, rows=rows)


def _score_table(result: dict[str, Any]) -> Table:
    """One column per product, and the bicubic baseline of the first one."""
    products = result["products"]
    # the image to read in each product's scores, and once more the baseline of the first product
    columns = [(p, "fused") for p in products] + [(products[0], "bicubic")]
    rows = [
        [title, *(text(pick(p[section][image], keys), form) for p, image in columns)]
        for title, section, keys, form in SUMMARY
        if all(p.get(section) for p in products)
    ]
    for title, keys, form in FURTHER:
        rows.append([title, *(text(pick(p, keys), form) for p in products), "-"])
    if all(p["vegetation"] for p in products):
        for title, key, form in VEGETATION:
            values = (p["vegetation"]["images"][image][key] for p, image in columns)
            rows.append([title, *(text(value, form) for value in values)])
    header = ["score", *(p["letter"] for p in products), "bicubic S3 of A"]
    return Table(title="Scores", header=header, rows=rows)


def _difference_sections(pair: dict[str, Any], figure_files: dict[str, Path]) -> list[Section]:
    """Two products of one pixel size: the hallucination check."""
    a = pair["first"]
    b = pair["other"]
    caption = (
        f"Left: {b} against {a}. Middle and right: the deviation of each of them from what the "
        "inputs support. In units of the scene's residual; numbers mark the largest disputed "
        "regions."
    )
    bands = [
        [name, text(row["rmse"]), text(row["bias"], "{:+.5f}"), text(row["residual"])]
        for name, row in pair["bands"].items()
    ]
    header = ["band", f"RMSE of {b} minus {a}", "bias", "scene's residual"]
    return [
        _difference_table(pair),
        *([_region_table(pair)] if pair["regions"] else []),
        FigureFile(path=figure_files[f"difference_{a}{b}"], caption=caption),
        Table(title=f"{a} and {b}, per band", header=header, rows=bands),
    ]


def _difference_table(pair: dict[str, Any]) -> Table:
    a = pair["first"]
    b = pair["other"]
    same_inputs = "yes" if pair["same_inputs"] else "no: differences may be real"
    beyond = f"pixels where they differ by more than {pair['limit']:g} residuals"
    disputed = "pixels where they do, and at least one shows what the inputs do not support"
    rows = [
        ["made from the same coarse image", same_inputs],
        [f"RMSE of {b} minus {a}", text(pair["rmse"])],
        [f"bias, {b} minus {a}", text(pair["bias"], "{:+.5f}")],
        ["spectral angle between them, deg", text(pair["sam_deg"], "{:.3f}")],
        [beyond, text(pair["share_beyond"], "{:.3%}")],
        [disputed, text(pair["share_unsupported"], "{:.3%}")],
    ]
    for letter, key in ((a, "unsupported_first"), (b, "unsupported_other")):
        title = f"pixels where {letter} shows what the inputs do not support"
        rows.append([title, text(pair[key], "{:.3%}")])
    return Table(title=f"Hallucination check, {a} and {b}", header=["number", "value"], rows=rows)


def _region_table(pair: dict[str, Any]) -> Table:
    rows = [
        [
            str(number),
            f"{r['easting_km']:.2f}",
            f"{r['northing_km']:.2f}",
            f"{r['area_m2'] / 1e4:.2f}",
            f"{r['width_m']:.0f} x {r['height_m']:.0f}",
            f"{r['peak']:.1f}",
            pair[r["unsupported"]],
        ]
        for number, r in enumerate(pair["regions"], 1)
    ]
    place = ["easting, km", "northing, km", "area, ha", "width x height, m"]
    return Table(
        title=f"Largest regions where {pair['first']} and {pair['other']} differ and one is not "
        "supported",
        header=["region", *place, "peak", "not supported"],
        rows=rows,
    )


def _size_sections(pair: dict[str, Any], figure_files: dict[str, Path]) -> list[Section]:
    """Two products of different pixel sizes."""
    large = pair["large"]
    small = pair["small"]
    caption = (
        f"Mean spectra at both pixel sizes; {small} averaged over the pixels of {large}, minus "
        f"{large}, per band."
    )
    bands = [
        [name, text(row["rmse"]), text(row["bias"], "{:+.5f}"), text(row["correlation"], "{:.4f}")]
        for name, row in pair["bands"].items()
    ]
    return [
        _size_table(pair),
        FigureFile(path=figure_files[f"sizes_{pair['first']}{pair['other']}"], caption=caption),
        Table(
            title=f"{small} averaged minus {large}, per band",
            header=["band", "RMSE", "bias", "correlation"],
            rows=bands,
        ),
    ]


def _size_table(pair: dict[str, Any]) -> Table:
    large = pair["large"]
    small = pair["small"]
    rows = [
        ["pixels averaged", f"{pair['factor']} x {pair['factor']}"],
        [f"RMSE of averaged {small} minus {large}", text(pair["rmse"])],
        ["RMSE of the guides, which no model has touched", text(pair["guide_rmse"])],
        ["bias", text(pair["bias"], "{:+.5f}")],
        ["spectral angle, deg", text(pair["sam_deg"], "{:.3f}")],
        ["mean spectra, J-S divergence", text(pair["jensen_shannon"], "{:.2e}")],
    ]
    for size in ("large", "small"):
        title = f"panchromatic SSIM of {pair[size]} against its guide"
        rows.append([title, text(pair["panchromatic_ssim"][size], "{:.4f}")])
    detail = pair["detail"]
    for name in ("low", "medium", "high") if detail else ():
        title = f"power of averaged {small} over {large}, and coherence: {name} frequencies"
        values = (detail[name], detail[f"coherence_{name}"])
        rows.append([title, ", ".join(text(value, "{:.3f}") for value in values)])
    title = f"Two pixel sizes, {large} and {small}"
    return Table(title=title, header=["number", "value"], rows=rows)
