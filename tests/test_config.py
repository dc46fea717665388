"""The settings file is read strictly."""

import pytest

from satfuse.config import Settings, load_settings
from satfuse.errors import ConfigError


@pytest.fixture(autouse=True)
def no_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SATFUSE_CONFIG", raising=False)


def test_without_a_file_the_defaults_apply():
    assert load_settings() == Settings()


def test_named_file_wins_over_environment_over_home(tmp_path, monkeypatch):
    home = tmp_path / ".config/satfuse.toml"
    environment = tmp_path / "environment.toml"
    named = tmp_path / "named.toml"
    home.parent.mkdir()
    for file in (home, environment, named):
        file.write_text(f'store = "{file.stem}"\n')
    assert load_settings().store == "satfuse"
    monkeypatch.setenv("SATFUSE_CONFIG", str(environment))
    assert load_settings().store == "environment"
    assert load_settings(named).store == "named"


def test_every_key_is_read(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text(
        'store = "s3://b/p"\n'
        'catalog = "a,b"\n'
        'enmap_catalog = "e"\n'
        'model = "m"\n'
        'scheduler = "tcp://h:1"\n'
        "[rules]\nmaximum_gap_s = 600\n"
        "[train]\nepochs = 3\n"
    )
    assert load_settings(file) == Settings(
        store="s3://b/p",
        catalog="a,b",
        enmap_catalog="e",
        model="m",
        scheduler="tcp://h:1",
        rules={"maximum_gap_s": 600},
        train={"epochs": 3},
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('stroe = "x"', r"s\.toml: unknown key 'stroe'; known: store"),
        ("store = 5", r"s\.toml: store = 5 must be text"),
        ("rules = 5", r"s\.toml: rules = 5 must be a table"),
        (
            "[rules]\nmaximum_gab_s = 5",
            r"s\.toml \[rules\]: unknown key 'maximum_gab_s'; known: max",
        ),
        (
            '[rules]\nmaximum_gap_s = "5"',
            r"s\.toml \[rules\]: maximum_gap_s = '5' must be a number",
        ),
        ("[rules]\nmaximum_cloud = 5", r"s\.toml \[rules\]: maximum_cloud = 5.0 must be a share"),
        ("store = ", "not valid TOML"),
        ('store = "\udcff"', "not valid TOML"),
    ],
)
def test_a_bad_file_is_named_with_the_cause(tmp_path, text, match):
    file = tmp_path / "s.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=match):
        load_settings(file)


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        load_settings(tmp_path / "none.toml")
