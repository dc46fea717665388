"""Every error that satfuse raises on purpose.

A message states in one line what is wrong, what was found, and what is allowed or how to fix it.
"""


class SatfuseError(Exception):
    """Base of all errors a user can fix; the command line prints the message and exits with 1."""


class ConfigError(SatfuseError):
    """An unknown key, catalogue, field, model or a malformed value."""


class BandError(SatfuseError):
    """A band name that the sensor does not have, or bands that do not fit together."""


class GridError(SatfuseError):
    """Grids that do not nest, a bad bounding box, a ratio that is not an integer."""


class CatalogError(SatfuseError):
    """A STAC service that refuses a request, fails, or returns an invalid response."""


class AccessError(SatfuseError):
    """An href that its catalogue forbids, missing credentials, or a login page instead of data."""


class ReadError(SatfuseError):
    """A missing, truncated or damaged asset; the message names item, asset and cause."""


class RadiometryError(SatfuseError):
    """A scale or offset that cannot be determined; the message names the override."""


class NoPairError(SatfuseError):
    """No pair passes the rules; the message lists the nearest candidates and why each fails."""


class RegistrationError(SatfuseError):
    """A shift that cannot be estimated or applied."""


class CubeError(SatfuseError):
    """A training cube that is missing, damaged, or does not match the request."""


class CheckpointError(SatfuseError):
    """A checkpoint with other bands than requested, a wrong hash, or an unknown model."""


class TrainError(SatfuseError):
    """Training that diverged."""


class ProductError(SatfuseError):
    """A product that is missing, incomplete or fails its checks."""


class StoreError(SatfuseError):
    """A store that cannot be reached, read or written."""


class SchedulerError(SatfuseError):
    """A Dask scheduler that cannot be reached, or workers that died."""


class MissingExtraError(SatfuseError, ImportError):
    """A package of an optional extra of satfuse is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; it comes with: pip install 'satfuse[{extra}]'"
        )
