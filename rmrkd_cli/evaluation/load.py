"""A trained network from its file, for use in Python."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from rmrkd_cli.evaluation.checkpoint_network import load_checkpoint_network
from rmrkd_cli.presets.loader import load_preset


def load_network(
    checkpoint: str | Path, *, preset: str | None = None, device: str = "cpu", allow_partial: bool = False
) -> nn.Module:
    """Return the network of a checkpoint, with its weights, in evaluation mode.

    Args:
        checkpoint: A run's `student.pth`, a distiller checkpoint (its student is taken), or a plain mmsegmentation
            checkpoint.
        preset: Name or file of the preset that describes the network; needed only where the file does not.
        device: Where the network goes, such as "cpu" or "cuda:0".
        allow_partial: Load the tensors that match, and leave the others random.

    Returns:
        An mmsegmentation `EncoderDecoder`. `encode_decode(images, None)` maps images (B, 3, H, W), normalised as the
        config in the checkpoint says, to logits (B, K, H, W).

    Raises:
        RmrkdError: When the file describes no network, or its weights do not match the network.
    """
    described = load_preset(preset) if preset is not None else None
    kind = "cuda" if device.startswith("cuda") else "cpu"
    found = load_checkpoint_network(str(checkpoint), described, kind, allow_partial=allow_partial)
    return found.network.to(device).eval()
