"""How good a product is: against its coarse input, its guide, its yardsticks, and the truth where it is known."""

from satfuse.validate.report import validate_product

__all__ = ["validate_product"]
