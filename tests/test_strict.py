"""Settings from plain data: converted where nothing is lost, refused with the cause otherwise."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from satfuse.errors import ConfigError
from satfuse.strict import from_dict


@dataclass(frozen=True, kw_only=True)
class Patch:
    side: int = 60
    psf_sigma: tuple[float, float] = (0.4, 0.6)


@dataclass(frozen=True, kw_only=True)
class Settings:
    name: str
    rate: float = 1.0
    epochs: int = 3
    log: bool = False
    threads: int | None = None
    loss: Literal["l1", "mse"] = "l1"
    bands: tuple[str, ...] = ()
    wavelengths: list[float] | None = None
    assets: dict[str, dict[str, str]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    patch: Patch = field(default_factory=Patch)

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ConfigError(f"rate = {self.rate} must be positive")


def test_absent_keys_take_their_defaults():
    assert from_dict(Settings, {"name": "x"}, "here") == Settings(name="x")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("rate", 2, 2.0),
        ("threads", None, None),
        ("threads", 4, 4),
        ("loss", "mse", "mse"),
        ("bands", ["B02", "B03"], ("B02", "B03")),
        ("wavelengths", [443, 490.5], [443.0, 490.5]),
        ("assets", {"s2": {"B02": "blue"}}, {"s2": {"B02": "blue"}}),
        ("options", {"width": [1, "a"]}, {"width": [1, "a"]}),
        ("patch", {"psf_sigma": [0, 1]}, Patch(psf_sigma=(0.0, 1.0))),
        ("patch", Patch(side=30), Patch(side=30)),
    ],
)
def test_values_are_converted_to_the_types_of_the_fields(key, value, expected):
    converted = getattr(from_dict(Settings, {"name": "x", key: value}, "here"), key)
    assert converted == expected
    assert repr(converted) == repr(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nmae": "y"}, "here: unknown key 'nmae'; known: name, rate, epochs,"),
        ({"patch": {"size": 3}}, "here: unknown key 'patch.size'; known: side, psf_sigma"),
        ({"name": 5}, "here: name = 5 must be text"),
        ({"name": None}, "here: name = None must be text"),
        ({"rate": "1"}, "here: rate = '1' must be a number"),
        ({"rate": True}, "here: rate = True must be a number"),
        ({"epochs": 3.0}, "here: epochs = 3.0 must be a whole number"),
        ({"epochs": False}, "here: epochs = False must be a whole number"),
        ({"log": 1}, "here: log = 1 must be true or false"),
        ({"threads": "all"}, "here: threads = 'all' must be a whole number"),
        ({"loss": "huber"}, "here: loss = 'huber' must be 'l1' or 'mse'"),
        ({"loss": ["l1"]}, "here: loss = ['l1'] must be 'l1' or 'mse'"),
        ({"bands": "B02"}, "here: bands = 'B02' must be a list"),
        ({"bands": ["B02", 3]}, "here: bands[1] = 3 must be text"),
        ({"assets": {"s2": {"B02": 2}}}, "here: assets.s2.B02 = 2 must be text"),
        ({"assets": ["s2"]}, "here: assets = ['s2'] must be a table"),
        ({"patch": 3}, "here: patch = 3 must be a table"),
        ({"patch": {"side": "a"}}, "here: patch.side = 'a' must be a whole number"),
        ({"patch": {"psf_sigma": [1]}}, "here: patch.psf_sigma = [1] must be a list of 2"),
        ({"rate": -1}, "here: rate = -1.0 must be positive"),
    ],
)
def test_a_refusal_names_place_key_value_and_what_is_allowed(changes, message):
    with pytest.raises(ConfigError) as refusal:
        from_dict(Settings, {"name": "x", **changes}, "here")
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"^here: missing key 'name'$"):
        from_dict(Settings, {}, "here")
