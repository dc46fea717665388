"""Settings are read strictly."""

import pytest

from satfuse.config import Settings, load_settings
from satfuse.errors import ConfigError


@pytest.fixture(autouse=True)
def no_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SATFUSE_CONFIG", raising=False)


def test_without_a_file_the_defaults_hold():
    assert load_settings() == Settings()


def test_named_file_wins_over_environment_over_home(tmp_path, monkeypatch):
    home, environment, named = (
        tmp_path / ".config/satfuse.toml",
        tmp_path / "environment.toml",
        tmp_path / "named.toml",
    )
    home.parent.mkdir()
    for file in (home, environment, named):
        file.write_text(f'store = "{file.stem}"\n')
    assert load_settings().store == "satfuse"
    monkeypatch.setenv("SATFUSE_CONFIG", str(environment))
    assert load_settings().store == "environment"
    assert load_settings(named).store == "named"


def test_everything_that_it_may_hold(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text(
        'store = "s3://b/p"\ncatalog = "a,b"\nenmap_catalog = "e"\nmodel = "m"\nscheduler = "tcp://h:1"\n'
        "[rules]\nmaximum_gap_s = 600\n[train]\nepochs = 3\n"
    )
    assert load_settings(file) == Settings(
        store="s3://b/p", catalog="a,b", enmap_catalog="e", model="m", scheduler="tcp://h:1",
        rules={"maximum_gap_s": 600}, train={"epochs": 3},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('stroe = "x"', r"s\.toml: unknown key 'stroe'; known: store"),
        ("store = 5", "store is 5; it must be a text"),
        ("rules = 5", "rules is 5; it must be a table"),
        (
            "[rules]\nmaximum_gab_s = 5",
            r"s\.toml: unknown pair rule 'maximum_gab_s'; known: maximum_gap_s",
        ),
        ('[rules]\nmaximum_gap_s = "5"', "must be a number"),
        ("store = ", "not valid TOML"),
        ('store = "\udcff"', "not valid TOML"),
    ],
)
def test_bad_files_are_named_with_the_culprit(tmp_path, text, match):
    file = tmp_path / "s.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=match):
        load_settings(file)


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        load_settings(tmp_path / "none.toml")
