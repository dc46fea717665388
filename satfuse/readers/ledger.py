"""The record of the assets that a reader read, replaced or missed."""

import logging
from dataclasses import dataclass
from typing import Literal

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Read:
    """One asset of one item; `attrs["ledger"]` of every Dataset is a list of these.

    Attributes
    ----------
    item, asset : id of the item and canonical key of the asset.
    status : "read"; "replaced" by another source, which `cause` names; or "missing", a hole.
    cause : why it was not read.
    """

    item: str
    asset: str
    status: Literal["read", "replaced", "missing"]
    cause: str = ""


def log_holes(ledger: list[Read]) -> None:
    """Log a warning for each asset that was replaced or is missing."""
    for entry in ledger:
        if entry.status != "read":
            log.warning("%s: asset %s %s: %s", entry.item, entry.asset, entry.status, entry.cause)
