"""Settings from a TOML file: what every command takes as default. Parsed strictly, once.

The file is `--config PATH`, else `$SATFUSE_CONFIG`, else `~/.config/satfuse.toml` where that exists:

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
from dataclasses import dataclass, field, fields
from pathlib import Path

from satfuse.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Defaults of the command line; an option given there wins.

    `rules` overrides `PairRules`, key by key; `train` overrides `TrainConfig` and is checked where it is used.
    """

    store: str | None = None
    catalog: str = "cdse"
    enmap_catalog: str = "dlr"
    model: str = "bayesian"
    scheduler: str | None = None
    rules: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)


def load_settings(path: str | Path | None = None) -> Settings:
    """Read the settings file; defaults where there is none.

    Raises
    ------
    ConfigError
        The named file is missing, is not TOML, or holds an unknown key, an unknown rule, or a value of the wrong type.
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
    known = [f.name for f in fields(Settings)]
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{file}: unknown key {key!r}; known: {', '.join(known)}")
        wanted = dict if key in {"rules", "train"} else str
        if not isinstance(value, wanted):
            raise ConfigError(
                f"{file}: {key} is {value!r}; it must be a {'table' if wanted is dict else 'text'}"
            )
    if values.get("rules"):
        _check_rules(values["rules"], file)
    return Settings(**values)


def _check_rules(rules, file):
    from satfuse.pairing import PairRules

    try:
        PairRules.from_dict(rules)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
