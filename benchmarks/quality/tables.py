"""Markdown tables from result rows. A cell is the mean over seeds of the mean over a seed's scenes, and its spread.

A column counts only the scenes that every method with a number in it has fused, so that all of them speak of the same.
"""

import numpy as np

from benchmarks.document import markdown
from benchmarks.quality.matrix import Rows
from benchmarks.quality.methods import LEARNED, METHODS, OURS
from benchmarks.quality.scenes import POTSDAM, PROTOCOLS, RATIOS, REGISTERED
from benchmarks.quality.scores import CLASSES
from satfuse.sensors.bands import S3_NAMES
from satfuse.simulate.scenes.factory import BIOME_NAMES

SAM, RMSE = ("land", "sam_deg"), ("all", "rmse")
METRICS = {
    "SAM land, deg": (SAM, 2), "SAM land, rad": (("land", "sam_rad"), 4), "SAM dark, deg": (("dark", "sam_deg"), 2),
    "RMSE": (RMSE, 5), "RMSE land": (("land", "rmse"), 5), "RMSE dark": (("dark", "rmse"), 5),
    "PSNR, dB": (("all", "psnr_db"), 2), "ERGAS": (("all", "ergas"), 3), "SSIM": (("all", "ssim"), 4),
    "UIQI": (("all", "uiqi"), 4), "Q2n": (("all", "q2n"), 4), "back": (("back", "rmse"), 5),
    "back, raw": (("back", "rmse_uncalibrated"), 5), "D_lambda": (("no_reference", "d_lambda"), 4),
    "D_s": (("no_reference", "d_s"), 4), "QNR": (("no_reference", "qnr"), 4),
}  # fmt: skip
HIGHER = {"PSNR, dB", "SSIM", "UIQI", "Q2n", "QNR"}


def where(rows: Rows, **wanted) -> Rows:
    """The rows whose values are those wanted, or among them where a tuple is given."""
    wanted = {k: v if isinstance(v, tuple) else (v,) for k, v in wanted.items()}
    return [row for row in rows if all(row[k] in v for k, v in wanted.items())]


def shared(rows: Rows) -> Rows:
    """The rows of those cases that every method of the rows has fused."""
    methods = {row["method"] for row in rows}
    done = {}
    for row in rows:
        if "scores" in row:
            done.setdefault(_case(row), set()).add(row["method"])
    return [row for row in rows if done.get(_case(row)) == methods]


def value(row: dict, path) -> float:
    """A score by its path, such as ("all", "rmse") or ("bands", "rmse", 3); NaN where it does not exist."""
    found = row["scores"]
    for key in path:
        absent = (key >= len(found)) if isinstance(found, list) else key not in found
        if absent:
            return np.nan
        found = found[key]
    return np.nan if found is None else found


def mean_spread(rows: Rows, path) -> tuple[float, float]:
    """Mean over seeds of the mean over scenes, and its standard deviation over seeds (NaN of one seed)."""
    means = [np.mean(known) for known in by_seed(rows, path).values()]
    if not means:
        return np.nan, np.nan
    return float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else np.nan


def by_seed(rows: Rows, path) -> dict[int, list[float]]:
    """The known values of a score, by seed."""
    values = {}
    for row in rows:
        if np.isfinite(v := value(row, path)):
            values.setdefault(row["seed"], []).append(v)
    return values


def pivot(rows: Rows, key: str, names, path, digits: int, *, higher=False) -> str:
    """Methods against the values of `key` ("protocol", "place", "ratio"); the best of a column is bold."""
    rows = where(rows, withheld=False)
    columns = {str(name): shared(part) for name in names if (part := where(rows, **{key: name}))}
    methods = [m for m in METHODS if where(rows, method=m)]
    cells = {
        title: [mean_spread(where(part, method=m), path) for m in methods]
        for title, part in columns.items()
    }
    return grid(
        methods, cells, {title: digits for title in cells}, {title: higher for title in cells}
    )


def metrics_table(rows: Rows) -> str:
    """Methods against every score over all pixels."""
    rows = shared(where(rows, withheld=False))
    methods = [m for m in METHODS if where(rows, method=m)]
    cells = {
        t: [mean_spread(where(rows, method=m), path) for m in methods]
        for t, (path, _) in METRICS.items()
    }
    cells = {t: [(mean, np.nan) for mean, _ in column] for t, column in cells.items()}
    return grid(
        methods, cells, {t: d for t, (_, d) in METRICS.items()}, {t: t in HIGHER for t in METRICS}
    )


def listed(rows: Rows, paths: dict, digits: int) -> str:
    """Methods against some paths, without the spread: classes or bands."""
    rows = shared(where(rows, withheld=False))
    methods = [m for m in METHODS if where(rows, method=m)]
    cells = {
        t: [(mean_spread(where(rows, method=m), p)[0], np.nan) for m in methods]
        for t, p in paths.items()
    }
    return grid(methods, cells, dict.fromkeys(cells, digits), dict.fromkeys(cells, False))


def withheld_table(rows: Rows) -> str:
    """SAM over land and RMSE with and without the coarse image, of the scenes that have both."""
    lines = []
    for method in LEARNED:
        for protocol in (*PROTOCOLS, REGISTERED):
            own = where(rows, method=method, protocol=protocol)
            pair = [
                {_case(r): r for r in where(own, withheld=w) if "scores" in r}
                for w in (False, True)
            ]
            both = [[side[c] for c in sorted(set(pair[0]) & set(pair[1]))] for side in pair]
            if both[0]:
                cells = [
                    text(*mean_spread(side, p), d)
                    for p, d in ((SAM, 3), (RMSE, 5))
                    for side in both
                ]
                lines.append([method, protocol, *cells, str(len(both[0]))])
    titles = [
        "method",
        "protocol",
        "SAM with",
        "SAM without",
        "RMSE with",
        "RMSE without",
        "scenes",
    ]
    return markdown(titles, lines, left=2)


def verdict(rows: Rows) -> str:
    """Ours against the best baseline of each protocol, seed by seed: how much lower, and the spread of that."""
    return _against(where(rows, withheld=False), "best baseline")


def verdict_withheld(rows: Rows) -> str:
    """Ours against itself without the coarse image, as `verdict`."""
    return _against(_with_and_without(rows), "rival")


def wins(rows: Rows) -> str:
    """Scene by scene: where ours is lower than every baseline, and than itself without the coarse image."""
    sides = where(rows, withheld=False), _with_and_without(rows)
    lines = []
    for protocol in (*PROTOCOLS, REGISTERED):
        if where(rows, protocol=protocol):
            lines.append(
                [
                    protocol,
                    *(
                        _won(where(s, protocol=protocol), path)
                        for path in (SAM, RMSE)
                        for s in sides
                    ),
                ]
            )
    titles = [
        f"{score} {than}"
        for score in ("SAM", "RMSE")
        for than in ("below all baselines", "below without S3")
    ]
    return markdown(["protocol", *titles], lines, left=1)


def _with_and_without(rows) -> Rows:
    """Ours, and ours without the coarse image as a method of its own."""
    return [
        row | {"method": "without S3"} if row["withheld"] else row
        for row in where(rows, method=OURS)
    ]


def _won(rows, path) -> str:
    """In how many scenes ours is lower than every other method of the rows."""
    scenes = {}
    for row in rows:
        if "scores" in row and np.isfinite(found := value(row, path)):
            scenes.setdefault(_case(row), {})[row["method"]] = found
    better = [
        s[OURS] < min(v for m, v in s.items() if m != OURS)
        for s in scenes.values()
        if OURS in s and len(s) > 1
    ]
    return f"{sum(better)} of {len(better)}"


def _against(rows, title) -> str:
    lines = []
    for group, places in (("Potsdam", (POTSDAM,)), ("biomes", BIOME_NAMES)):
        for protocol in (*PROTOCOLS, REGISTERED):
            part = shared(where(rows, protocol=protocol, place=places))
            for score, path, digits in (("SAM land, deg", SAM, 3), ("RMSE", RMSE, 5)):
                means = {
                    m: mean_spread(where(part, method=m), path)[0]
                    for m in {row["method"] for row in part}
                }
                if OURS not in means or len(means) < 2:
                    continue
                best = min((m for m in means if m != OURS), key=means.get)
                sides = [by_seed(where(part, method=m), path) for m in (best, OURS)]
                gain = [np.mean(sides[0][s]) - np.mean(sides[1][s]) for s in sides[0]]
                spread = np.std(gain, ddof=1) if len(gain) > 1 else np.nan
                cells = [text(means[OURS], np.nan, digits), best, text(means[best], np.nan, digits)]
                said = "better" if np.mean(gain) > np.nan_to_num(spread) else "not better"
                said += ", one seed" if len(gain) == 1 else ""
                lines.append(
                    [group, protocol, score, *cells, text(np.mean(gain), spread, digits), said]
                )
    titles = ["scenes", "protocol", "score", "ours", title, "its score", "lower by", ""]
    return markdown(titles, lines, left=3) if lines else ""


def coverage_table(rows: Rows) -> str:
    """Share of errors within one and two standard deviations, by place and protocol."""
    rows = [row for row in where(rows, withheld=False) if "coverage" in row.get("scores", {})]
    lines = []
    for method in (m for m in METHODS if where(rows, method=m)):
        for place in (POTSDAM, *BIOME_NAMES):
            cells = []
            for protocols in (("clean",), ("realistic",), tuple(PROTOCOLS)):
                part = where(rows, method=method, place=place, protocol=protocols)
                cells += [text(*mean_spread(part, ("coverage", f"within_{k}")), 3) for k in (1, 2)]
            lines.append([method, place, *cells])
    kinds = ("clean", "realistic", "all protocols")
    return markdown(
        ["method", "place", *(f"{k}, {s} sigma" for k in kinds for s in (1, 2))], lines, left=2
    )


def back_table(rows: Rows) -> str:
    """Our image degraded back against the coarse image, by place; see `scores.degrade_back`."""
    rows, lines = where(rows, method=OURS, withheld=False), []
    for place in (POTSDAM, *BIOME_NAMES):
        clean, real = (where(rows, place=place, protocol=p) for p in ("clean", "realistic"))
        columns = [(clean, "rmse"), (real, "noise"), (real, "rmse_estimated"), (real, "rmse")]
        lines.append(
            [place, *(text(*mean_spread(part, ("back", key)), 5) for part, key in columns)]
        )
    titles = [
        "clean",
        *(
            f"realistic, {who}"
            for who in ("the truth", "ours as estimated", "ours as it truly was")
        ),
    ]
    return markdown(["scenes", *titles], lines)


def cost_table(rows: Rows, memory_mb: dict) -> str:
    """Median seconds of one fusion on one core, by ratio, and the memory that it takes."""
    lines = []
    for method in (m for m in METHODS if where(rows, method=m)):
        parts = [
            where(rows, method=method, ratio=r, place=BIOME_NAMES, withheld=False) for r in RATIOS
        ]
        seconds = [[row["seconds"] for row in part if "seconds" in row] for part in parts]
        cells = [f"{np.median(part):.2f}" if part else "-" for part in seconds]
        lines.append([method, *cells, f"{memory_mb[method]:.0f}" if method in memory_mb else "-"])
    return markdown(["method", *(f"ratio {r}, s" for r in RATIOS), "memory, MB"], lines)


def failures(rows: Rows) -> str:
    """Which scenes were refused, by whom and why; empty where none. Runs without the coarse image do not count."""
    rows, found = where(rows, withheld=False), {}
    for row in rows:
        if "failed" in row:
            found.setdefault((_case(row), row["failed"][:160]), []).append(row["method"])
    lines = []
    for ((place, ratio, protocol, seed), why), methods in sorted(found.items()):
        tried = where(rows, place=place, ratio=ratio, protocol=protocol, seed=seed)
        by = "every method" if len(methods) == len(tried) else ", ".join(methods)
        lines.append(f"- {place}, ratio {ratio}, {protocol}, seed {seed}, by {by}: {why}")
    return "\n".join(lines)


def class_paths(score: str) -> dict:
    """Paths of a score by class."""
    return {name: ("classes", name, score) for name in CLASSES}


def band_paths(score: str) -> dict:
    """Paths of a score by band, of scenes with 21 bands."""
    return {band: ("bands", score, i) for i, band in enumerate(S3_NAMES)}


def grid(names, cells, digits, higher) -> str:
    """A table of (mean, spread) columns; the best mean of each, lowest or highest, is bold."""
    columns = []
    for title, column in cells.items():
        means = np.array([mean for mean, _ in column], float)
        best = (
            (np.nanmax if higher[title] else np.nanmin)(means)
            if np.isfinite(means).any()
            else np.nan
        )
        texts = [text(*cell, digits[title]) for cell in column]
        columns.append(
            [f"**{t}**" if mean == best else t for t, mean in zip(texts, means, strict=True)]
        )
    return markdown(
        ["method", *cells], [[name, *row] for name, *row in zip(names, *columns, strict=True)]
    )


def text(mean, spread, digits) -> str:
    """Number and spread; a dash for what is unknown."""
    if not np.isfinite(mean):
        return "-"
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if np.isfinite(spread) else "")


def _case(row):
    return row["place"], row["ratio"], row["protocol"], row["seed"]
