"""A tiny DINOv2 with random weights, in a folder as transformers writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIZES = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


def write_dinov2(folder: Path, name: str = "Dinov2Model", **options: Any) -> Path:
    """Write the network of a class, and return its folder."""
    import transformers

    torch.manual_seed(3)
    config = getattr(transformers, name.removesuffix("Model") + "Config")(**{**SIZES, **options})
    network = getattr(transformers, name)(config)
    with torch.no_grad():  # as after training: no two tokens are alike, no layer is an identity
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    return folder
