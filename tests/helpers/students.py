"""Student files like those of a run, with random weights and realistic batch-norm statistics."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.exporters.verify import normalize, synthetic_images
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.student_file import mmseg_config_text, write_student


def random_student(path: Path, preset: str, overrides: list[str] | None = None) -> nn.Module:
    """Write the student of a preset to `path` and return it; its predictions contain several classes."""
    resolved = load_preset(preset, overrides=overrides or [])
    info = dataset_info(resolved)
    torch.manual_seed(0)
    config = network_config(resolved.student, info.num_classes)
    network = build_network(config, device="cpu")
    nn.init.normal_(network.decode_head.conv_seg.weight, std=0.3)
    network.train()
    with torch.no_grad():
        for number in range(2):
            network.encode_decode(torch.from_numpy(normalize(synthetic_images((160 + 32 * number, 128), 2))), None)  # type: ignore[operator]
    meta = {
        "kind": "rmrkd-student", "CLASSES": tuple(info.classes), "PALETTE": [list(colour) for colour in info.palette],
        "config": mmseg_config_text(config, info), "preset": resolved.model_dump(mode="json", exclude_none=True),
        "dataset": info.name, "role": "distill", "method": "rmrkd", "seed": 3, "iterations": 7,
    }  # fmt: skip
    write_student(network, meta, path)
    return network.eval()
