"""Local files that appear whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file at once: write the draft in the block, it becomes `path` when the block ends.

    The folder is made and the draft synced before it is renamed. Where the block fails, the draft
    is removed and an older `path` stays as it was.

    Yields
    ------
    Path of the draft, in the folder of `path`.

    Examples
    --------
    >>> with replacing(path) as draft:
    ...     draft.write_text("whole or not at all")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # hidden, and of a name that no other process chooses
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield draft
        _sync(draft)  # else a crash could leave the new name with an empty file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:  # it names no file by itself
            raise OSError(error.errno, error.strerror, str(path)) from error
