"""Files that are whole or not there, and that lie in the folder they are asked for by.

A folder may have come from somebody else, with links in it that lead elsewhere; and a machine may stop while a file is
being written.
"""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["inside", "read_json", "replacing", "write_json", "write_text"]


def inside(folder: str | Path, name: str | Path) -> Path:
    """Return a folder's file or subfolder, which need not be there yet.

    Raises:
        ValueError: A link leads out of the folder; the message names it and where it leads.
    """
    home, path = Path(folder), Path(folder) / name
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(os.path.realpath(home)):
        raise ValueError(
            f"{path} is a link out of {home}, to {target}; a folder's files are its own. Remove the link, or put "
            "what it points at in its place."
        )
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new file to write, which takes the place of ``path`` once it is whole and on the disk.

    What stood there is kept until then, and for good if writing fails; a link is replaced, not followed. The new file
    ends as ``path`` does, for writers that go by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{secrets.token_hex(4)}-{path.name}")
    new = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    mode = os.fstat(new).st_mode
    os.close(new)
    try:
        yield unfinished
        unfinished.chmod(mode)  # some writers make the file again, for its owner alone
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, indented for a reader."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
