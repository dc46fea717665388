"""Settings from a TOML file: the defaults of every command. Parsed strictly, once.

The file is `--config PATH`, else `$SATFUSE_CONFIG`, else `~/.config/satfuse.toml` where that
exists:

    store = "s3://my-bucket/fused"
    catalog = "cdse"
    enmap_catalog = "dlr"
    model = "bayesian"
    scheduler = "tcp://127.0.0.1:8786"

    [rules]
    maximum_gap_s = 600
"""

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from satfuse.errors import ConfigError
from satfuse.strict import from_dict


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Defaults of the command line; an option given there wins.

    `rules` overrides `PairRules`, key by key. `train` overrides `TrainConfig`, or `SpectraConfig`
    where spectra are trained on; it is checked where it is used.
    """

    store: str | None = None
    catalog: str = "cdse"
    enmap_catalog: str = "dlr"
    model: str = "bayesian"
    scheduler: str | None = None
    rules: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


def load_settings(path: str | Path | None = None) -> Settings:
    """Read the settings file; defaults where there is none.

    Raises
    ------
    ConfigError
        The named file is missing, is not TOML, or holds an unknown key, an unknown rule, or a value
        of the wrong type.
    """
    named = path or os.environ.get("SATFUSE_CONFIG")
    file = Path(named) if named else Path.home() / ".config" / "satfuse.toml"
    if not file.is_file():
        if named:
            raise ConfigError(f"settings file {file} does not exist")
        return Settings()
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"settings file {file} is not valid TOML: {error}") from error
    settings = from_dict(Settings, values, str(file))
    if settings.rules:
        from satfuse.pairing import PairRules  # slow to import, and few files have rules

        from_dict(PairRules, settings.rules, f"{file} [rules]")  # the check alone
    return settings
