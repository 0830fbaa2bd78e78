"""Checks of the paths that results are written to, made before the work starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rmrkd_cli.errors import RmrkdError


def check_free_folder(folder: Path | None) -> None:
    """Raises RmrkdError unless the folder is empty, or still to be made."""
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise RmrkdError(f"`{folder}` {what}, and nothing is overwritten", "choose another folder")
    if folder is not None:
        _check_place(folder)


def check_new_file(path: Path | None, *, force: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Whether a result can be written there, asked before the work is done.

    Args:
        force: A file that exists may be replaced.
        inputs: Files that may not be, even so.

    Raises:
        RmrkdError: When it exists, is an input, or lies where nothing can be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise RmrkdError(f"`{path}` is a folder", "name a file")
    for other in inputs:
        if path == other or (path.exists() and other.exists() and path.samefile(other)):
            raise RmrkdError(f"`{path}` is the same file as `{other}`", "choose another name")
    if os.path.lexists(path) and not force:
        raise RmrkdError(f"`{path}` exists, and nothing is overwritten", "choose another name, or remove it")
    if path.exists() and not path.is_file():
        raise RmrkdError(f"`{path}` is not a regular file", "choose another name")
    _check_place(path)


def _check_place(path: Path) -> None:
    """The nearest folder above that exists must take new files; those below it are made."""
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise RmrkdError(f"`{path}` cannot be written: `{above}` is not a folder", "choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise RmrkdError(f"`{path}` cannot be written: `{above}` takes no new files", "choose another place")
