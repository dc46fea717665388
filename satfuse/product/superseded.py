"""Runs that no item points to: replaced by a later run, or never finished.

No reader opens them; they only take up disk space.
"""

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from satfuse.product.publish import group_path, item_path
from satfuse.product.store import Store

log = logging.getLogger(__name__)

# Younger runs are kept: they may be running, or still be read by whoever opened them before.
KEPT_FOR = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Superseded:
    """A run that is not its product's visible one.

    Attributes
    ----------
    product_id, run : its data, plan and record are at `data/<product_id>/<run>.*`.
    size : bytes.
    changed : when the last of its files, or the item that points elsewhere, was written (UTC).
    """

    product_id: str
    run: str
    size: int
    changed: datetime

    @property
    def age(self) -> timedelta:
        """Time since the last change."""
        return datetime.now(UTC) - self.changed

    def to_dict(self) -> dict[str, str | float]:
        """Facts for a table or JSON: size in MB, age in days."""
        return {
            "id": self.product_id,
            "run": self.run,
            "MB": round(self.size / 1e6, 1),
            "changed": f"{self.changed:%Y-%m-%dT%H:%MZ}",
            "days": round(self.age / timedelta(days=1), 1),
        }


def superseded(store: Store) -> list[Superseded]:
    """All superseded runs of a store, also those that are running at this moment.

    None behind HTTPS, where nothing can be listed.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    stats_of_run: dict[tuple[str, str], list[tuple[int, datetime]]] = {}
    for path, stat in store.stats("data").items():
        product_id, _, name = path.removeprefix("data/").partition("/")
        run = name.partition(".")[0]
        if run:  # else a hidden file, such as a draft
            stats_of_run.setdefault((product_id, run), []).append(stat)
    visible = {product_id: _visible_run(store, product_id) for product_id, _ in stats_of_run}
    items = store.stats("items")
    runs = []
    for (product_id, run), stats in sorted(stats_of_run.items()):
        if run == visible[product_id]:
            continue
        item = items.get(item_path(product_id))
        changed = max(time for _, time in ([*stats, item] if item else stats))
        size = sum(size for size, _ in stats)
        runs.append(Superseded(product_id=product_id, run=run, size=size, changed=changed))
    return runs


def remove_superseded(store: Store, *, older_than: timedelta = KEPT_FOR) -> list[Superseded]:
    """Delete the superseded runs that have not changed for a while.

    Returns
    -------
    The runs that were deleted.

    Raises
    ------
    StoreError
        The store cannot be read or written.
    """
    old = [run for run in superseded(store) if run.age >= older_than]
    return [run for run in old if _remove(store, run)]


def _remove(store: Store, run: Superseded) -> bool:
    """Delete one run, unless it has become visible meanwhile; whether it was deleted."""
    if _visible_run(store, run.product_id) == run.run:
        return False
    # the plan first: without it nobody continues or publishes the run
    store.remove(f"data/{run.product_id}/{run.run}.plan")
    if _visible_run(store, run.product_id) == run.run:
        return False
    store.remove(group_path(run.product_id, run.run))
    store.remove(f"data/{run.product_id}/{run.run}.run.json")
    log.info("removed run %s of %s, %.1f MB", run.run, run.product_id, run.size / 1e6)
    return True


def _visible_run(store: Store, product_id: str) -> str | None:
    """The run that the product's item names; None where the product is not published."""
    path = item_path(product_id)
    if not store.exists(path):
        return None
    return json.loads(store.read(path))["properties"].get("satfuse:run")
