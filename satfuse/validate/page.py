"""What a report says: its tables, as Markdown and as one HTML page that needs nothing else."""

import base64
from html import escape
from pathlib import Path

from satfuse.validate.figures import TITLES

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
    "consistency": "RMSE per band. Above: degraded to the coarse grid against the Sentinel-3 input. Below: mixed to "
    "the Sentinel-2 bands by a linear map fitted at coarse scale, against Sentinel-2.",
    "spectra": "Mean spectra over the valid pixels; dotted: one standard deviation.",
    "ndvi": "NDVI of Sentinel-2 (B08, B04) and of the product (mean of Oa17, S3N, Oa18 and of S2N, Oa08, Oa09), and "
    "how well areas above a threshold agree.",
    "power": "Radially averaged power at 665 nm in a window of adjacent pixels; what lies below the blue line at high "
    "frequency is missing detail.",
}

READING = (
    "A product close to its coarse input proves little: S3 is an input, and bicubic upsampling without any detail "
    "scores near-perfect cosine and SSIM. Read every number beside the rows bicubic S3 (no detail) and S2 mixed (guide "
    "bands mixed linearly, without residual), and look at both sides: coarse (spectra) and guide (detail). Power is 1 "
    "where the product is as sharp as Sentinel-2. RMSE, bias and Euclidean distance are in reflectance."
)

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}"
    "img{max-width:100%;height:auto}table{border-collapse:collapse;font-size:14px;display:block;overflow-x:auto}"
    "th,td{border-bottom:1px solid #ddd;padding:.25rem .6rem;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}figure{margin:1.5rem 0}figcaption{color:#555;font-size:14px}"
)


def summary_table(result: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows (one per score, with the fused product and each yardstick) of the table that sums a report up."""
    images = list(result["coarse_consistency"])
    rows = []
    for title, section, keys, form in SUMMARY:
        if not result[section]:
            continue
        values = []
        for image in images:
            value = result[section][image]
            for key in keys:
                value = value[key]
            values.append(_text(value, form))
        rows.append([title, *values])
    return ["score", *(TITLES[i] for i in images)], rows


def band_table(result: dict, section: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the scores per band of a section ("coarse_consistency", "guide_consistency")."""
    images = result[section]
    fused = images["fused"]["bands"]
    keys = list(next(iter(fused.values())))
    others = [i for i in images if i != "fused"]
    header = ["band", *keys, *(f"RMSE {TITLES[i]}" for i in others)]
    rows = [
        [band, *(_text(row[k]) for k in keys), *(_text(images[i]["bands"][band]["rmse"]) for i in others)]
        for band, row in fused.items()
    ]
    return header, rows


def _tables(result):
    seam, spectra = result["seam"], result["spectra"]
    rows = [
        ["coarse pixels compared", "{compared} of {all}".format(**result["coarse_pixels"])],
        [
            "mean spectrum, Jensen-Shannon divergence (natural log) to Sentinel-3",
            _text(spectra["jensen_shannon"], "{:.2e}"),
        ],
        ["mean spectrum, angle to Sentinel-3, degrees", _text(spectra["sam_deg"], "{:.3f}")],
        ["mean spectrum, bias to Sentinel-3", _text(spectra["bias"], "{:+.5f}")],
        [
            f"step across {seam['fused']['edges']} tile edges over steps beside, fused",
            _text(seam["fused"]["ratio"], "{:.3f}"),
        ],
        ["the same at the same places, Sentinel-2", _text(seam["guide"]["ratio"], "{:.3f}")],
    ]
    return {
        "Scores": summary_table(result),
        "Further numbers": (["number", "value"], rows),
        "Against Sentinel-3, per band": band_table(result, "coarse_consistency"),
        "Against Sentinel-2, per band": band_table(result, "guide_consistency"),
    }


def markdown(result: dict) -> str:
    """The report as Markdown, without figures."""
    lines = [f"# {result['title']}", "", READING, ""]
    for title, (header, rows) in _tables(result).items():
        lines += [f"## {title}", "", "| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    return "\n".join(lines)


def page(result: dict, drawn: dict[str, Path]) -> str:
    """The report as one HTML page; `drawn` names the PNG files that go into it."""
    title = escape(result["title"])
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body>',
        f"<h1>{title}</h1><p>{escape(READING)}</p>",
    ]
    tables = {name: _html_table(*table) for name, table in _tables(result).items()}
    shown = [_html_figure(drawn[name], caption) for name, caption in CAPTIONS.items() if name in drawn]
    first, *rest = (f"<h2>{escape(name)}</h2>{table}" for name, table in tables.items())
    return "".join([*parts, shown[0], first, *shown[1:], *rest, "</body></html>"])


def _html_table(header, rows):
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html_figure(path, caption):
    image = base64.b64encode(path.read_bytes()).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{image}"><figcaption>{text}</figcaption></figure>'


def _text(value, form="{:.5f}"):
    return "-" if value is None else form.format(value)
