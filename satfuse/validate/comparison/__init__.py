"""Comparison of several products of one place."""

from satfuse.validate.comparison.items import compare_items

__all__ = ["compare_items"]
