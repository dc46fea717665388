"""How good a product is: against its coarse input, its guide, its yardsticks, and the truth where it is known."""

from satfuse.validate.figures import quicklook
from satfuse.validate.report import validate_product

__all__ = ["quicklook", "validate_product"]
