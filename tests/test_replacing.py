"""Files appear whole or not at all."""

import errno
import os

import pytest

from satfuse.files import replacing


def test_a_file_is_put_in_place_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as draft:
        draft.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_reported_with_the_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match=r"No space left on device.*a\.txt"), replacing(path) as draft:
        draft.write_text("whole")
    assert list(tmp_path.iterdir()) == []


def test_what_fails_leaves_the_older_file_and_no_draft(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as draft:  # noqa: PT012  the block fails
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
