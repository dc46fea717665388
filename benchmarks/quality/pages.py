"""The tables of docs/quality.md, in their order and between its markers."""

from collections.abc import Iterable

from benchmarks.document import machine, put
from benchmarks.quality import tables
from benchmarks.quality.matrix import Results, Rows
from benchmarks.quality.scenes import ALL_PROTOCOLS, POTSDAM, RATIOS
from benchmarks.quality.tables import RMSE, SAM, pivot, where
from satfuse.simulate.scenes.factory import BIOME_NAMES

DOCUMENT = "quality.md"


def sections(results: Results) -> dict[str, str]:
    """Marker in the document -> Markdown, from the contents of a results file."""
    rows = results["rows"]
    potsdam = where(rows, place=POTSDAM)
    biomes = where(rows, place=BIOME_NAMES)
    realistic = where(biomes, protocol="realistic")
    class_sam = tables.listed(realistic, tables.class_paths("sam_deg"), 2)
    class_rmse = tables.listed(realistic, tables.class_paths("rmse"), 5)
    return {
        "verdict": tables.verdict(rows),
        "verdict-withheld": tables.verdict_withheld(rows),
        "wins": tables.wins(rows),
        "protocols-potsdam": _sam_and_rmse(potsdam, "protocol", ALL_PROTOCOLS),
        "protocols-biomes": _sam_and_rmse(biomes, "protocol", ALL_PROTOCOLS),
        "places": _sam_and_rmse(realistic, "place", BIOME_NAMES),
        "ratios": _sam_and_rmse(realistic, "ratio", RATIOS),
        "metrics": tables.metrics_table(realistic),
        "classes": f"{class_sam}\n\n{class_rmse}",
        "bands": tables.listed(realistic, tables.band_paths("rmse"), 4),
        "withheld": tables.withheld_table(rows),
        "back": tables.back_table(rows),
        "uncertainty": tables.coverage_table(rows),
        "cost": tables.cost_table(rows, results["memory_mb"]),
        "refused": tables.failures(rows),
    }


def _sam_and_rmse(rows: Rows, key: str, names: Iterable[object]) -> str:
    """A table of each of the two main scores."""
    names = tuple(names)
    return (
        f"SAM over land, degrees:\n\n{pivot(rows, key, names, SAM, 3)}\n\n"
        f"RMSE, all pixels and bands, reflectance:\n\n{pivot(rows, key, names, RMSE, 5)}"
    )


def everything(results: Results) -> str:
    """All tables for the terminal."""
    return "\n\n".join(f"## {name}\n\n{text}" for name, text in sections(results).items() if text)


def write(results: Results) -> None:
    """Put the tables between the markers of docs/quality.md."""
    for name, text in sections(results).items():
        put(text or "None.", DOCUMENT, name)
    trained = sorted({row["training"] for row in results["rows"] if "training" in row})
    summary = f"Training of each network: {' or '.join(trained)}. {len(results['rows'])} fusions."
    put(f"{summary}\n\n{machine()}", DOCUMENT, "run")
