"""The record of what a reader read, and of what it could not."""

import logging
from dataclasses import dataclass
from typing import Literal

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Read:
    """One asset of one item; `attrs["ledger"]` of every Dataset is a list of these.

    `status` is "read", "replaced" (something else stands in for it: `cause` says what) or "missing" (a hole).
    """

    item: str
    asset: str
    status: Literal["read", "replaced", "missing"]
    cause: str = ""


def log_holes(ledger: list[Read]) -> None:
    """Warn of each entry that is not a plain read."""
    for entry in ledger:
        if entry.status != "read":
            log.warning("%s: asset %s %s: %s", entry.item, entry.asset, entry.status, entry.cause)
