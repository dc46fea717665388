"""Local files that appear whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a draft to write beside `path`; at the end of the block it is synced and renamed to `path`.

    The folder is made. Where the block fails, the draft is removed and an older `path` stays as it was.

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
        with draft.open("rb") as file:
            os.fsync(file.fileno())  # else a crash could leave the new name with an empty file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
