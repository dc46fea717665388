"""Markdown tables from result rows.

A cell is the mean over seeds of the mean over a seed's scenes, and its standard deviation over
seeds. A column counts only the scenes that every method with a number in it has fused, so that all
of them refer to the same scenes.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from benchmarks.document import markdown
from benchmarks.quality.matrix import Row, Rows
from benchmarks.quality.methods import BAYESIAN, LEARNED, METHODS
from benchmarks.quality.scenes import ALL_PROTOCOLS, POTSDAM, PROTOCOLS, RATIOS
from benchmarks.quality.scores import CLASSES
from satfuse.sensors.bands import S3_NAMES
from satfuse.simulate.scenes.factory import BIOME_NAMES

ScorePath = tuple[str | int, ...]  # keys from the scores to a number, ("bands", "rmse", 3)
MeanSpread = tuple[float, float]  # NaN where unknown
SceneKey = tuple[str, int, str, int]  # place, ratio, protocol, seed

SAM: ScorePath = ("land", "sam_deg")
RMSE: ScorePath = ("all", "rmse")
MAIN_SCORES = ((SAM, 3), (RMSE, 5))  # with digits
WITHOUT_S3 = "without S3"  # the Bayesian model without the coarse image
# title, path, digits
METRICS: tuple[tuple[str, ScorePath, int], ...] = (
    ("SAM land, deg", SAM, 2),
    ("SAM land, rad", ("land", "sam_rad"), 4),
    ("SAM dark, deg", ("dark", "sam_deg"), 2),
    ("RMSE", RMSE, 5),
    ("RMSE land", ("land", "rmse"), 5),
    ("RMSE dark", ("dark", "rmse"), 5),
    ("PSNR, dB", ("all", "psnr_db"), 2),
    ("ERGAS", ("all", "ergas"), 3),
    ("SSIM", ("all", "ssim"), 4),
    ("UIQI", ("all", "uiqi"), 4),
    ("Q2n", ("all", "q2n"), 4),
    ("back", ("back", "rmse"), 5),
    ("back, raw", ("back", "rmse_uncalibrated"), 5),
    ("D_lambda", ("no_reference", "d_lambda"), 4),
    ("D_s", ("no_reference", "d_s"), 4),
    ("QNR", ("no_reference", "qnr"), 4),
)
HIGHER_IS_BETTER = {"PSNR, dB", "SSIM", "UIQI", "Q2n", "QNR"}


def where(rows: Rows, **values: object) -> Rows:
    """The rows with these values of their keys; of a tuple, with one of its values."""
    allowed = {k: v if isinstance(v, tuple) else (v,) for k, v in values.items()}
    return [row for row in rows if all(row[k] in v for k, v in allowed.items())]


def shared(rows: Rows) -> Rows:
    """The rows of those scenes that every method of the rows has fused."""
    methods = {row["method"] for row in rows}
    fused: dict[SceneKey, set[str]] = {}
    for row in rows:
        if "scores" in row:
            fused.setdefault(_scene_key(row), set()).add(row["method"])
    return [row for row in rows if fused.get(_scene_key(row)) == methods]


def value(row: Row, path: ScorePath) -> float:
    """A score by its path; NaN where it does not exist."""
    node = row["scores"]
    for key in path:
        try:
            node = node[key]
        except (KeyError, IndexError):
            return np.nan
    return np.nan if node is None else node


def mean_spread(rows: Rows, path: ScorePath) -> MeanSpread:
    """Mean over seeds of the mean over scenes, and its standard deviation over seeds.

    The latter is NaN for one seed.
    """
    means = [np.mean(values) for values in by_seed(rows, path).values()]
    if not means:
        return np.nan, np.nan
    return float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else np.nan


def by_seed(rows: Rows, path: ScorePath) -> dict[int, list[float]]:
    """The finite values of a score, by seed."""
    values: dict[int, list[float]] = {}
    for row in rows:
        if np.isfinite(v := value(row, path)):
            values.setdefault(row["seed"], []).append(v)
    return values


def pivot(rows: Rows, key: str, names: Iterable[object], path: ScorePath, digits: int) -> str:
    """Methods against the values of `key` ("protocol", "place", "ratio"); the best mean is bold."""
    rows = where(rows, withheld=False)
    parts = {str(name): shared(part) for name in names if (part := where(rows, **{key: name}))}
    methods = _methods_of(rows)
    cells = {
        title: [mean_spread(where(part, method=m), path) for m in methods]
        for title, part in parts.items()
    }
    return grid(methods, cells, dict.fromkeys(cells, digits))


def metrics_table(rows: Rows) -> str:
    """Methods against every score over all pixels, without the spread."""
    paths = {title: path for title, path, _ in METRICS}
    return _means_table(rows, paths, {title: digits for title, _, digits in METRICS})


def listed(rows: Rows, paths: Mapping[str, ScorePath], digits: int) -> str:
    """Methods against scores by title, such as those of classes or bands, without the spread."""
    return _means_table(rows, paths, dict.fromkeys(paths, digits))


def _means_table(rows: Rows, paths: Mapping[str, ScorePath], digits: Mapping[str, int]) -> str:
    rows = shared(where(rows, withheld=False))
    methods = _methods_of(rows)
    cells = {
        title: [(mean_spread(where(rows, method=m), path)[0], np.nan) for m in methods]
        for title, path in paths.items()
    }
    return grid(methods, cells, digits)


def withheld_table(rows: Rows) -> str:
    """SAM over land and RMSE with and without the coarse image, of the scenes that have both."""
    lines = []
    for method in LEARNED:
        for protocol in ALL_PROTOCOLS:
            part = where(rows, method=method, protocol=protocol)
            with_coarse, without = _fused_both_ways(part)
            if with_coarse:
                cells = [
                    text(*mean_spread(side, path), digits)
                    for path, digits in MAIN_SCORES
                    for side in (with_coarse, without)
                ]
                lines.append([method, protocol, *cells, str(len(with_coarse))])
    scores = ["SAM with", "SAM without", "RMSE with", "RMSE without"]
    return markdown(["method", "protocol", *scores, "scenes"], lines, left=2)


def _fused_both_ways(rows: Rows) -> tuple[Rows, Rows]:
    """Rows with the coarse image and without it, of one method's scenes that have both."""
    by_scene = [
        {_scene_key(row): row for row in where(rows, withheld=withheld) if "scores" in row}
        for withheld in (False, True)
    ]
    scenes = sorted(by_scene[0].keys() & by_scene[1].keys())
    with_coarse, without = ([side[scene] for scene in scenes] for side in by_scene)
    return with_coarse, without


def verdict(rows: Rows) -> str:
    """The Bayesian model against the best baseline of each protocol, seed by seed.

    The table says how much lower it is, and the spread of that.
    """
    return _comparison(where(rows, withheld=False), "best baseline")


def verdict_withheld(rows: Rows) -> str:
    """The Bayesian model against itself without the coarse image, as `verdict`."""
    return _comparison(_with_and_without(rows), "baseline")


def wins(rows: Rows) -> str:
    """The scenes where the Bayesian model is lower than every baseline, and than without S3."""
    sides = {
        "below all baselines": where(rows, withheld=False),
        "below without S3": _with_and_without(rows),
    }
    scores = {"SAM": SAM, "RMSE": RMSE}
    lines = [
        [
            protocol,
            *(
                _count_wins(where(side, protocol=protocol), path)
                for path in scores.values()
                for side in sides.values()
            ),
        ]
        for protocol in ALL_PROTOCOLS
        if where(rows, protocol=protocol)
    ]
    titles = [f"{score} {side}" for score in scores for side in sides]
    return markdown(["protocol", *titles], lines, left=1)


def _with_and_without(rows: Rows) -> Rows:
    """The Bayesian model, and without the coarse image as a method of its own."""
    return [
        row | {"method": WITHOUT_S3} if row["withheld"] else row
        for row in where(rows, method=BAYESIAN)
    ]


def _count_wins(rows: Rows, path: ScorePath) -> str:
    """In how many scenes the Bayesian model is lower than every other method of the rows."""
    scenes: dict[SceneKey, dict[str, float]] = {}
    for row in rows:
        if "scores" in row and np.isfinite(v := value(row, path)):
            scenes.setdefault(_scene_key(row), {})[row["method"]] = v
    won = [
        scores[BAYESIAN] < min(v for method, v in scores.items() if method != BAYESIAN)
        for scores in scenes.values()
        if BAYESIAN in scores and len(scores) > 1
    ]
    return f"{sum(won)} of {len(won)}"


def _comparison(rows: Rows, title: str) -> str:
    """Lines of `_compare` by place, protocol and score; empty where there is nothing to compare."""
    scores = {"SAM land, deg": (SAM, 3), "RMSE": (RMSE, 5)}
    lines = []
    for group, places in (("Potsdam", (POTSDAM,)), ("biomes", BIOME_NAMES)):
        for protocol in ALL_PROTOCOLS:
            part = shared(where(rows, protocol=protocol, place=places))
            for score, (path, digits) in scores.items():
                if cells := _compare(part, path, digits):
                    lines.append([group, protocol, score, *cells])
    titles = ["scenes", "protocol", "score", BAYESIAN, title, "its score", "lower by", ""]
    return markdown(titles, lines, left=3) if lines else ""


def _compare(rows: Rows, path: ScorePath, digits: int) -> list[str] | None:
    """The Bayesian model's score, the best other method, its score, the difference, the verdict.

    *Better* means lower by more than the standard deviation over seeds.
    """
    methods = {row["method"] for row in rows}
    if BAYESIAN not in methods or len(methods) < 2:
        return None
    means = {m: mean_spread(where(rows, method=m), path)[0] for m in methods}
    best = min(methods - {BAYESIAN}, key=means.__getitem__)
    baseline = by_seed(where(rows, method=best), path)
    bayesian = by_seed(where(rows, method=BAYESIAN), path)
    lower = [np.mean(baseline[seed]) - np.mean(bayesian[seed]) for seed in baseline]
    mean = float(np.mean(lower))
    spread = float(np.std(lower, ddof=1)) if len(lower) > 1 else np.nan
    words = "better" if mean > np.nan_to_num(spread) else "not better"
    words += ", one seed" if len(lower) == 1 else ""
    scores = [text(means[BAYESIAN], np.nan, digits), best, text(means[best], np.nan, digits)]
    return [*scores, text(mean, spread, digits), words]


def coverage_table(rows: Rows) -> str:
    """Share of errors within one and two standard deviations, by place and protocol."""
    rows = [row for row in where(rows, withheld=False) if "coverage" in row.get("scores", {})]
    groups = {
        "clean": ("clean",),
        "realistic": ("realistic",),
        "all protocols": tuple(PROTOCOLS),
    }
    lines = []
    for method in _methods_of(rows):
        for place in (POTSDAM, *BIOME_NAMES):
            parts = [where(rows, method=method, place=place, protocol=g) for g in groups.values()]
            cells = [
                text(*mean_spread(part, ("coverage", f"within_{sigmas}")), 3)
                for part in parts
                for sigmas in (1, 2)
            ]
            lines.append([method, place, *cells])
    titles = [f"{group}, {sigmas} sigma" for group in groups for sigmas in (1, 2)]
    return markdown(["method", "place", *titles], lines, left=2)


def back_table(rows: Rows) -> str:
    """The degraded image of the Bayesian model against the coarse image, by place.

    See `scores.degrade_back`.
    """
    rows = where(rows, method=BAYESIAN, withheld=False)
    columns = {
        "clean": ("clean", "rmse"),
        "realistic, the truth": ("realistic", "noise"),
        "realistic, bayesian as estimated": ("realistic", "rmse_estimated"),
        "realistic, bayesian under the true observation": ("realistic", "rmse"),
    }
    lines = []
    for place in (POTSDAM, *BIOME_NAMES):
        cells = [
            text(*mean_spread(where(rows, place=place, protocol=protocol), ("back", key)), 5)
            for protocol, key in columns.values()
        ]
        lines.append([place, *cells])
    return markdown(["scenes", *columns], lines)


def cost_table(rows: Rows, memory_mb: Mapping[str, float]) -> str:
    """Median seconds of one fusion on one core, by ratio, and the memory that it takes."""
    lines = []
    for method in _methods_of(rows):
        cells = []
        for ratio in RATIOS:
            part = where(rows, method=method, ratio=ratio, place=BIOME_NAMES, withheld=False)
            seconds = [row["seconds"] for row in part if "seconds" in row]
            cells.append(f"{np.median(seconds):.2f}" if seconds else "-")
        memory = f"{memory_mb[method]:.0f}" if method in memory_mb else "-"
        lines.append([method, *cells, memory])
    return markdown(["method", *(f"ratio {ratio}, s" for ratio in RATIOS), "memory, MB"], lines)


def failures(rows: Rows) -> str:
    """Scenes that were refused, by which methods and why; empty where there are none.

    Runs without the coarse image do not count.
    """
    rows = where(rows, withheld=False)
    refusals: dict[tuple[SceneKey, str], list[str]] = {}
    for row in rows:
        if "failed" in row:
            refusals.setdefault((_scene_key(row), row["failed"][:160]), []).append(row["method"])
    lines = []
    for (scene, reason), methods in sorted(refusals.items()):
        place, ratio, protocol, seed = scene
        runs = [row for row in rows if _scene_key(row) == scene]
        names = "every method" if len(methods) == len(runs) else ", ".join(methods)
        lines.append(f"- {place}, ratio {ratio}, {protocol}, seed {seed}, by {names}: {reason}")
    return "\n".join(lines)


def class_paths(score: str) -> dict[str, ScorePath]:
    """Paths of a score by class."""
    return {name: ("classes", name, score) for name in CLASSES}


def band_paths(score: str) -> dict[str, ScorePath]:
    """Paths of a score by band, of scenes with 21 bands."""
    return {band: ("bands", score, i) for i, band in enumerate(S3_NAMES)}


def grid(
    names: Sequence[str],
    columns: Mapping[str, Sequence[MeanSpread]],
    digits: Mapping[str, int],
) -> str:
    """A table of methods (rows) and columns by title; the best mean of each column is bold."""
    texts = [_column(title, column, digits[title]) for title, column in columns.items()]
    lines = [[name, *cells] for name, *cells in zip(names, *texts, strict=True)]
    return markdown(["method", *columns], lines)


def _column(title: str, column: Sequence[MeanSpread], digits: int) -> list[str]:
    means = np.array([mean for mean, _ in column], float)
    best = np.nan
    if np.isfinite(means).any():
        best = np.nanmax(means) if title in HIGHER_IS_BETTER else np.nanmin(means)
    texts = [text(mean, spread, digits) for mean, spread in column]
    return [f"**{t}**" if mean == best else t for t, mean in zip(texts, means, strict=True)]


def text(mean: float, spread: float, digits: int) -> str:
    """Number and spread; a dash where the number is unknown."""
    if not np.isfinite(mean):
        return "-"
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if np.isfinite(spread) else "")


def _methods_of(rows: Rows) -> list[str]:
    """The methods that have rows, in the order of the table of methods."""
    return [method for method in METHODS if where(rows, method=method)]


def _scene_key(row: Row) -> SceneKey:
    return row["place"], row["ratio"], row["protocol"], row["seed"]
