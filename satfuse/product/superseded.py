"""Runs whose data no item points to: replaced by a later run, or never finished. They cost only room."""

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from satfuse.product.publish import item_path
from satfuse.product.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Superseded:
    """A run that is not its product's visible one.

    Attributes
    ----------
    product_id, run : its data, plan and record lie at `data/<product_id>/<run>.*`.
    size : bytes.
    changed : when the last of its files, or the item that points elsewhere, was written (UTC).
    """

    product_id: str
    run: str
    size: int
    changed: datetime


def superseded(store: Store) -> list[Superseded]:
    """All such runs of a store, also those at work just now; none behind HTTPS, where nothing can be listed.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    files: dict[tuple[str, str], list] = {}
    items = store.stats("items")
    for path, stat in store.stats("data").items():
        product_id, _, rest = path.removeprefix("data/").partition("/")
        files.setdefault((product_id, rest.partition(".")[0]), []).append(stat)
    visible = {product_id: _visible_run(store, product_id) for product_id, run in files if run}
    return [
        Superseded(
            product_id=product_id,
            run=run,
            size=sum(size for size, _ in stats),
            changed=max(
                time for _, time in [*stats, *filter(None, [items.get(item_path(product_id))])]
            ),
        )
        for (product_id, run), stats in sorted(files.items())
        if run and run != visible[product_id]
    ]


def remove_superseded(
    store: Store, *, older_than: timedelta = timedelta(days=1)
) -> list[Superseded]:
    """Delete them, but for those that changed lately: these may be at work, or still be read by who opened them before.

    Returns
    -------
    What was deleted.

    Raises
    ------
    StoreError
        The store cannot be read or written.
    """
    removed = []
    for run in superseded(store):
        if (
            datetime.now(UTC) - run.changed < older_than
            or _visible_run(store, run.product_id) == run.run
        ):
            continue
        store.remove(
            f"data/{run.product_id}/{run.run}.plan"
        )  # without its plan nobody continues or publishes the run
        if _visible_run(store, run.product_id) != run.run:
            for kind in ("zarr", "run.json"):
                store.remove(f"data/{run.product_id}/{run.run}.{kind}")
            log.info("removed run %s of %s, %.1f MB", run.run, run.product_id, run.size / 1e6)
            removed.append(run)
    return removed


def _visible_run(store, product_id):
    path = item_path(product_id)
    return (
        json.loads(store.read(path))["properties"].get("satfuse:run")
        if store.exists(path)
        else None
    )
