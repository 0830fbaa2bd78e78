"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from rmrkd_cli.errors import RunError

PARTIAL = ".partial"  # how the name of a file ends that is being written; it begins with a dot


def save_atomic(write: Callable[[Path], None], path: Path, harm: Callable[[Path], str] | None = None) -> None:
    """Lets `write` fill a file beside `path`, then gives it the name; a kill leaves the old file or the new one.

    Args:
        harm: Says what is wrong with the file, which is read again from the disk before it gets its name.

    Raises:
        RunError: When it cannot be written, or is not as it should be.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
        os.close(handle)
        partial = Path(name)
        try:
            write(partial)
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # or memory would be read again
            if harm is not None and (found := harm(partial)):
                raise RunError(f"`{path}` was written, and when read again {found}", "is the disk failing?")
            partial.chmod(0o666 & ~_umask())
            os.replace(partial, path)
            sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # other writers than ours can report a full disk as RuntimeError
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: Exception) -> RunError:
    """Says what could not be written and why, and how much room there is."""
    import shutil

    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    try:
        free = f"{shutil.disk_usage(path.parent).free / 1e6:,.0f} MB are free there: free some space, or "
    except OSError:
        free = ""
    return RunError(f"cannot write `{path}`: {why}", f"{free}choose another place; what was saved before is whole")


def write_text(text: str, path: Path) -> None:
    """A text file, whole or not at all."""

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    save_atomic(write, path)


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a finished checkpoint a second name, without a moment at which that name is missing."""
    partial = target.with_name(f".{target.name}.link{PARTIAL}")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:  # a file system without hard links
        save_atomic(lambda copy: _copy(source, copy), target)
        return
    os.replace(partial, target)
    partial.unlink(missing_ok=True)  # where both are the same file already, replacing leaves the two names
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Makes new names in a folder last, through a loss of power too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copyfile(source, target)
