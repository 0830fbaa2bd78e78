"""The values of the preset key `weights`: `none`, a file, or a name that the library knows."""

from __future__ import annotations

_SUFFIXES = (".pth", ".pt", ".safetensors", ".bin", ".ckpt")


def is_file_name(weights: str) -> bool:
    """Return whether `weights` is a path, not a name that a library knows."""
    return "/" in weights or "\\" in weights or weights.endswith(_SUFFIXES)
