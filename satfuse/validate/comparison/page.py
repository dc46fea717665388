"""What the report on several products says: its tables and captions."""

from pathlib import Path

from satfuse.validate.markup import Picture, Table, text
from satfuse.validate.page import SUMMARY, pick

READING = (
    "Products go by letters; the others are compared with the first one. The first table sets all of them beside "
    "bicubic S3, which holds no detail. Where two products of one pixel size differ by more than the scene leaves "
    "open, at least one of them shows something that neither input does. The scene's residual is what Sentinel-2's "
    "bands, mixed linearly, lack of Sentinel-3 at coarse scale, carried to fine pixels; a deviation is a difference in "
    "such residuals, root mean square over the bands. Missing detail is blur, not hallucination. RMSE and bias are in "
    "reflectance."
)

FURTHER = (  # rows beyond those of one product's summary: title, keys, format
    ("mean spectrum, J-S divergence to S3", ("spectra", "jensen_shannon"), "{:.2e}"),
    ("mean spectrum, angle to S3, deg", ("spectra", "sam_deg"), "{:.3f}"),
    ("mean spectrum, bias to S3", ("spectra", "bias"), "{:+.5f}"),
)


def blocks(result: dict, drawn: dict[str, Path]) -> list[Table | Picture]:
    """Tables and pictures of the report in reading order; `drawn` names the PNG files."""
    shown = [
        _who(result),
        Picture(path=drawn["gallery"], caption="True colour under one stretch (665, 560, 490 nm)."),
    ]
    shown += [_scores(result)]
    caption = "Mean spectra over the valid pixels, and what their mean and standard deviation are beyond Sentinel-3's."
    shown += [Picture(path=drawn["spectra"], caption=caption)]
    for pair in result["pairs"]:
        letters = pair["first"] + pair["other"]
        shown += (
            _difference(pair, drawn, letters) if "regions" in pair else _sizes(pair, drawn, letters)
        )
        if f"power_{letters}" in drawn:
            caption = "Fourier spectra at 665 nm: power in two dimensions, radially averaged, coherence with Sentinel-2."
            shown.append(Picture(path=drawn[f"power_{letters}"], caption=caption))
    return shown


def _who(result):
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


def _scores(result):
    products = result["products"]
    rows = []
    for title, section, keys, form in SUMMARY:
        if all(p.get(section) for p in products):
            values = [(p[section], "fused") for p in products] + [(products[0][section], "bicubic")]
            rows.append(
                [title, *(text(pick(scores[image], keys), form) for scores, image in values)]
            )
    rows += [
        [title, *(text(pick(p, keys), form) for p in products), "-"]
        for title, keys, form in FURTHER
    ]
    if all(p["vegetation"] for p in products):
        images = [(p["vegetation"]["images"], "fused") for p in products]
        images.append((products[0]["vegetation"]["images"], "bicubic"))
        for title, key, form in (
            ("Jaccard index, NDVI against the map", "jaccard", "{:.4f}"),
            ("the same minus Sentinel-2's", "minus_guide", "{:+.4f}"),
        ):
            rows.append([title, *(text(found[image][key], form) for found, image in images)])
    return Table(
        title="Scores",
        header=["score", *(p["letter"] for p in products), "bicubic S3 of A"],
        rows=rows,
    )


def _difference(pair, drawn, letters):
    a, b = letters
    rows = [
        [
            "made from the same coarse image",
            "yes" if pair["same_inputs"] else "no: differences may be real",
        ],
        [f"RMSE of {b} minus {a}", text(pair["rmse"])],
        [f"bias, {b} minus {a}", text(pair["bias"], "{:+.5f}")],
        ["spectral angle between them, deg", text(pair["sam_deg"], "{:.3f}")],
        [
            f"pixels where they differ by more than {pair['limit']:g} residuals",
            text(pair["share_beyond"], "{:.3%}"),
        ],
        [
            "pixels where they do, and at least one shows what the inputs do not support",
            text(pair["share_unsupported"], "{:.3%}"),
        ],
        [
            f"pixels where {a} shows what the inputs do not support",
            text(pair["unsupported_first"], "{:.3%}"),
        ],
        [
            f"pixels where {b} shows what the inputs do not support",
            text(pair["unsupported_other"], "{:.3%}"),
        ],
    ]
    named = {"first": a, "other": b}
    regions = [
        [
            str(number), f"{r['easting_km']:.2f}", f"{r['northing_km']:.2f}", f"{r['area_m2'] / 1e4:.2f}",
            f"{r['width_m']:.0f} x {r['height_m']:.0f}", f"{r['peak']:.1f}", named[r["unsupported"]],
        ]
        for number, r in enumerate(pair["regions"], 1)
    ]  # fmt: skip
    header = [
        "region",
        "easting, km",
        "northing, km",
        "area, ha",
        "width x height, m",
        "peak",
        "not supported",
    ]
    bands = [
        [name, text(row["rmse"]), text(row["bias"], "{:+.5f}"), text(row["residual"])]
        for name, row in pair["bands"].items()
    ]
    caption = (
        f"Left: {b} against {a}. Middle and right: what in each of them the inputs do not support. In units of the "
        "scene's residual; numbers mark the largest disputed regions."
    )
    tables = [
        Table(title=f"Hallucination check, {a} and {b}", header=["number", "value"], rows=rows)
    ]
    if regions:
        tables.append(
            Table(
                title=f"Largest regions where {a} and {b} differ and one is not supported",
                header=header,
                rows=regions,
            )
        )
    header = ["band", f"RMSE of {b} minus {a}", "bias", "scene's residual"]
    return [
        *tables,
        Picture(path=drawn[f"difference_{letters}"], caption=caption),
        Table(title=f"{a} and {b}, per band", header=header, rows=bands),
    ]


def _sizes(pair, drawn, letters):
    large, small = pair["large"], pair["small"]
    detail = pair["detail"]
    rows = [
        ["pixels averaged", f"{pair['factor']} x {pair['factor']}"],
        [f"RMSE of averaged {small} minus {large}", text(pair["rmse"])],
        ["RMSE of the guides, which no model has touched", text(pair["guide_rmse"])],
        ["bias", text(pair["bias"], "{:+.5f}")],
        ["spectral angle, deg", text(pair["sam_deg"], "{:.3f}")],
        ["mean spectra, J-S divergence", text(pair["jensen_shannon"], "{:.2e}")],
        [
            f"panchromatic SSIM of {large} against its guide",
            text(pair["panchromatic_ssim"]["large"], "{:.4f}"),
        ],
        [
            f"panchromatic SSIM of {small} against its guide",
            text(pair["panchromatic_ssim"]["small"], "{:.4f}"),
        ],
    ]
    for name in ("low", "medium", "high") if detail else ():
        values = f"{text(detail[name], '{:.3f}')}, {text(detail[f'coherence_{name}'], '{:.3f}')}"
        rows.append(
            [f"power of averaged {small} over {large}, and coherence: {name} frequencies", values]
        )
    bands = [
        [name, text(row["rmse"]), text(row["bias"], "{:+.5f}"), text(row["correlation"], "{:.4f}")]
        for name, row in pair["bands"].items()
    ]
    caption = f"Mean spectra at both pixel sizes; {small} averaged over the pixels of {large}, minus {large}, per band."
    return [
        Table(title=f"Two pixel sizes, {large} and {small}", header=["number", "value"], rows=rows),
        Picture(path=drawn[f"sizes_{letters}"], caption=caption),
        Table(
            title=f"{small} averaged minus {large}, per band",
            header=["band", "RMSE", "bias", "correlation"],
            rows=bands,
        ),
    ]
