"""Quality of a product: against its coarse input, its guide, two baselines, and a known truth."""

from satfuse.validate.report import validate_product

__all__ = ["validate_product"]
