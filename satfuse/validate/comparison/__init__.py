"""Several products of one place, compared."""

from satfuse.validate.comparison.items import compare_items

__all__ = ["compare_items"]
