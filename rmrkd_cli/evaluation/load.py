"""Load a trained network from its file, for use in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from rmrkd_cli.evaluation.checkpoint_network import load_checkpoint_network
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.user_code import allow_files


def load_network(
    checkpoint: str | Path,
    *,
    preset: str | None = None,
    device: str = "cpu",
    allow_partial: bool = False,
    code: Sequence[str] = (),
) -> nn.Module:
    """Return the network of a checkpoint, with its weights, in evaluation mode.

    Args:
        checkpoint: A run's `student.pth`, a distiller checkpoint (its student is taken), or a plain mmsegmentation
            checkpoint.
        preset: Name or file of a preset; needed only if the checkpoint does not describe its network.
        device: Device of the network, such as "cpu" or "cuda:0".
        allow_partial: Load the tensors that match, and leave the others random.
        code: Python files that may run, where one of them builds the network.

    Returns:
        A module of the network's library, such as mmsegmentation's `EncoderDecoder`. `rmrkd_cli.segment` runs it on
        images, the same for every library.

    Raises:
        RmrkdError: The file describes no network, or its weights do not match.
    """
    allow_files(code)
    loaded_preset = load_preset(preset) if preset is not None else None
    kind = "cuda" if device.startswith("cuda") else "cpu"
    model = load_checkpoint_network(str(checkpoint), loaded_preset, kind, allow_partial=allow_partial)
    return model.network.to(device).eval()
