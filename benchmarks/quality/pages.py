"""The tables of docs/quality.md, in their order and between its marks."""

from benchmarks.document import machine, put
from benchmarks.quality import tables
from benchmarks.quality.scenes import POTSDAM, PROTOCOLS, RATIOS, REGISTERED
from benchmarks.quality.tables import RMSE, SAM, pivot, where
from satfuse.simulate.scenes.factory import BIOME_NAMES

DOCUMENT = "quality.md"
ALL = (*PROTOCOLS, REGISTERED)


def sections(results: dict) -> dict[str, str]:
    """Mark in the document to Markdown, from what a results file holds."""
    rows = results["rows"]
    real, biomes = where(rows, place=POTSDAM), where(rows, place=BIOME_NAMES)
    seen = where(biomes, protocol="realistic")
    return {
        "verdict": tables.verdict(rows),
        "verdict-withheld": tables.verdict_withheld(rows),
        "wins": tables.wins(rows),
        "protocols-potsdam": _both(real, "protocol", ALL),
        "protocols-biomes": _both(biomes, "protocol", ALL),
        "places": _both(seen, "place", BIOME_NAMES),
        "ratios": _both(seen, "ratio", RATIOS),
        "metrics": tables.metrics_table(seen),
        "classes": tables.listed(seen, tables.class_paths("sam_deg"), 2)
        + "\n\n"
        + tables.listed(seen, tables.class_paths("rmse"), 5),
        "bands": tables.listed(seen, tables.band_paths("rmse"), 4),
        "withheld": tables.withheld_table(rows),
        "back": tables.back_table(rows),
        "uncertainty": tables.coverage_table(rows),
        "cost": tables.cost_table(rows, results["memory_mb"]),
        "refused": tables.failures(rows),
    }


def _both(part, key, names):
    """The two scores that decide, one table each."""
    return (
        f"SAM over land, degrees:\n\n{pivot(part, key, names, SAM, 3)}\n\n"
        f"RMSE, all pixels and bands, reflectance:\n\n{pivot(part, key, names, RMSE, 5)}"
    )


def everything(results: dict) -> str:
    """All tables for the terminal."""
    return "\n\n".join(f"## {name}\n\n{text}" for name, text in sections(results).items() if text)


def write(results: dict) -> None:
    """Put the tables between the marks of docs/quality.md."""
    for name, text in sections(results).items():
        put(text or "None.", DOCUMENT, name)
    trained = sorted({row["training"] for row in results["rows"] if "training" in row})
    said = f"Training of each network: {' or '.join(trained)}. {len(results['rows'])} fusions."
    put(f"{said}\n\n{machine()}", DOCUMENT, "run")
