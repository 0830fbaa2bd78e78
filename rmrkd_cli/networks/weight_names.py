"""The values of the preset key `weights`: `none`, a file, or a name that the library knows."""

from __future__ import annotations

from pathlib import Path

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.errors import RmrkdError

_SUFFIXES = (".pth", ".pt", ".safetensors", ".bin", ".ckpt")


def is_file_name(weights: str) -> bool:
    """Return whether `weights` is a path, not a name that a library knows."""
    return "/" in weights or "\\" in weights or weights.endswith(_SUFFIXES)


def file_has(file: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether a file has a tensor of which the name begins with one of these; True if it cannot be read."""
    if not Path(file).is_file():
        return True
    try:
        names = read_checkpoint(Path(file), lazy=True).student()
    except RmrkdError:  # whoever loads it reports it
        return True
    return any(name.startswith(prefixes) for name in names)
