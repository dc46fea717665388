"""Every error that satfuse raises on purpose.

A message says what is wrong, what was found, and what is allowed or how to mend it.
"""


class SatfuseError(Exception):
    """Root of all errors that a user can mend; the command line prints its message and exits with 1."""


class ConfigError(SatfuseError):
    """An unknown key, catalogue, field, model or a malformed value."""


class BandError(SatfuseError):
    """A band name that the sensor does not have, or bands that do not fit together."""


class GridError(SatfuseError):
    """Grids that do not nest, a bad bounding box, a ratio that is not an integer."""


class CatalogError(SatfuseError):
    """A STAC service that refuses, fails, or answers nonsense."""


class AccessError(SatfuseError):
    """An href that its catalogue does not allow, missing credentials, a login page in place of data."""


class ReadError(SatfuseError):
    """An asset that is missing, truncated or damaged; names item, asset and cause."""


class RadiometryError(SatfuseError):
    """A scale or offset that cannot be decided; names the override."""


class NoPairError(SatfuseError):
    """No pair passes the rules; lists the nearest candidates and the rule that each one fails."""


class RegistrationError(SatfuseError):
    """A shift that cannot be estimated or applied."""


class CubeError(SatfuseError):
    """A training cube that is missing, damaged, or does not fit what is asked of it."""


class CheckpointError(SatfuseError):
    """A checkpoint with other bands, a wrong hash, or an unknown model."""


class TrainError(SatfuseError):
    """A training that diverged."""


class ProductError(SatfuseError):
    """A product that is missing, incomplete or fails its checks."""


class StoreError(SatfuseError):
    """A store that cannot be reached, read or written."""


class SchedulerError(SatfuseError):
    """A Dask scheduler that cannot be reached, or workers that died."""


class MissingExtraError(SatfuseError, ImportError):
    """A package that an extra of satfuse brings is not installed."""

    def __init__(self, package: str, extra: str):
        super().__init__(
            f"{package} is not installed; it comes with: pip install 'satfuse[{extra}]'"
        )
