"""Write safetensors files, and compare a written checkpoint with its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.storage.atomic import save_atomic


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, **metadata: str) -> None:
    """Write a safetensors file atomically.

    Args:
        tensors: Contiguous, none of which shares memory with another.
        metadata: Texts of its header.
    """
    from safetensors.torch import save_file

    save_atomic(lambda partial: save_file(dict(tensors), partial, {"format": "pt", **metadata}), path)


def holds(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a checkpoint, when it is read again, has exactly these tensors."""
    written = read_checkpoint(path).state
    return written.keys() == tensors.keys() and all(torch.equal(written[key], tensors[key]) for key in tensors)
