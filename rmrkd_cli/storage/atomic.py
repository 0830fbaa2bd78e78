"""Write files atomically: another process, or the next start after a crash, finds the old file or the complete new one.

Every writer here follows the same steps: write a temporary file in the target's folder, flush it to the disk (fsync),
rename it to the target's name, and flush the folder. This is the only module that does.

    write_text, write_bytes   for content in memory
    save_atomic               for a library that writes to a path
    create_bytes              never replaces an existing file
    link_or_copy              gives a file a second name
    atomic_path               the context manager under all of them
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rmrkd_cli.errors import RunError

PARTIAL = ".partial"  # suffix of a temporary file; its name starts with a dot
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EACCES}


@contextmanager
def atomic_path(path: Path, *, suffix: str = PARTIAL, overwrite: bool = True) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`, and rename it to `path` when the block ends without an error.

    On an error the temporary file is deleted and `path` stays as it was. The folder must exist.

    Args:
        suffix: Last part of the temporary file's name, for libraries that choose a format by it.
        overwrite: Replace an existing file.

    Raises:
        FileExistsError: `overwrite` is false and `path` exists, also when it was created meanwhile.
        OSError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name.lstrip('.')}.{os.urandom(4).hex()}{suffix}")
    partial.open("xb").close()
    try:
        yield partial
        rename_synced(partial, path, overwrite=overwrite)
    finally:
        partial.unlink(missing_ok=True)


def rename_synced(partial: Path, path: Path, *, overwrite: bool = True) -> None:
    """Flush a finished file to the disk, rename it, and flush the folder. Raises as `atomic_path`."""
    with partial.open("rb+") as stream:
        os.fsync(stream.fileno())
    if overwrite:
        os.replace(partial, path)
    else:
        _rename_new(partial, path)
    sync_folder(path.parent)


def save_atomic(write: Callable[[Path], object], path: Path, find_damage: Callable[[Path], str] | None = None) -> None:
    """Call `write` with the path of a temporary file, then rename that file to `path`; create missing folders.

    Args:
        find_damage: Reads the temporary file from the disk before the rename and returns what is wrong, or "".

    Raises:
        RunError: The file cannot be written, or `find_damage` found something.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            write(partial)
            if find_damage is not None:
                _drop_from_page_cache(partial)
                if damage := find_damage(partial):
                    raise RunError(f"`{path}` was damaged while it was written: {damage}", "check the disk for errors")
    except (OSError, RuntimeError) as error:  # some libraries report a full disk as RuntimeError
        raise cannot_write(path, error) from error


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 text file atomically. Raises RunError when it cannot be written."""
    write_bytes(text.encode("utf-8"), path)


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file atomically. Raises RunError when it cannot be written."""
    save_atomic(lambda partial: partial.write_bytes(content), path)


def create_bytes(content: bytes, path: Path, *, suffix: str = PARTIAL) -> bool:
    """Write a new file atomically; return False, and write nothing, where `path` exists.

    Raises:
        OSError: The file cannot be written, or its folder does not exist.
    """
    try:
        with atomic_path(path, suffix=suffix, overwrite=False) as partial:
            partial.write_bytes(content)
    except FileExistsError:
        return False
    return True


def link_or_copy(source: Path, target: Path) -> None:
    """Give a finished file a second name, replacing what had that name; copy it where there are no hard links.

    Raises:
        RunError: The name cannot be written.
    """
    partial = target.with_name(f".{target.name}.{os.urandom(4).hex()}{PARTIAL}")
    try:
        os.link(source, partial)
    except OSError:
        save_atomic(lambda copy: shutil.copyfile(source, copy), target)
        return
    try:
        os.replace(partial, target)
        sync_folder(target.parent)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        partial.unlink(missing_ok=True)  # replacing does nothing where both names are the same file already


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a new name survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno == errno.EIO:
            raise  # any other error: the file system (CIFS, some FUSE) cannot sync folders
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: Exception) -> RunError:
    """Return the error for a file that could not be written, with the cause and the free space on its disk."""
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    try:
        free = f"{shutil.disk_usage(path.parent).free / 1e6:,.0f} MB are free there: free some space, or "
    except OSError:
        free = ""
    return RunError(f"cannot write `{path}`: {cause}", f"{free}choose another folder; files saved before are intact")


def _rename_new(partial: Path, path: Path) -> None:
    """Rename unless `path` exists; a hard link fails where the name is taken, a rename would replace."""
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.rename(partial, path)


def _drop_from_page_cache(path: Path) -> None:
    """Make the next read come from the disk instead of from memory."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
