"""The student file: a plain checkpoint with its library's names, a description of its network, and its sources."""

from __future__ import annotations

import pprint
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from rmrkd_cli.checkpoints.reader import load_state_dict_checked, read_checkpoint, save_torch
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.normalization import Normalization
from rmrkd_cli.networks.libraries import MMSEG, library_of
from rmrkd_cli.networks.mmseg_versions import split_preprocessor

_MMSEG_TYPES = {"cityscapes": "CityscapesDataset", "voc12aug": "PascalVOCDataset", "ade20k": "ADE20KDataset"}


def write_student(network: nn.Module, meta: Mapping[str, Any], path: Path) -> None:
    """Write a network as a plain checkpoint, and read it back into the network as a check."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    save_torch({"meta": dict(meta), "state_dict": state}, path)
    load_state_dict_checked(network, read_checkpoint(path, verified=True).student(), str(path))


def describe_network(config: Mapping[str, Any], info: DatasetInfo) -> dict[str, Any]:
    """Return the entry of a student's metadata from which its network is built: `config`, or `network`."""
    if library_of(config) == MMSEG:
        return {"config": mmseg_config_text(config, info)}
    return {"network": dict(config)}


def mmseg_config_text(model: Mapping[str, Any], info: DatasetInfo) -> str:
    """Return the config as Python text, for mmcv's `Config` and mmsegmentation's `tools/test.py`.

    Args:
        model: The `model` entry of the config; `data_preprocessor` is written as mmsegmentation 0.x has it.
    """
    model, normalization = split_preprocessor(model)
    split = "val" if "val" in info.splits else next(iter(info.splits))
    layout = info.splits[split]
    names, labels = layout.parts[0]
    data: dict[str, Any] = {
        "type": _MMSEG_TYPES.get(info.name, "CustomDataset"),
        "data_root": str(info.root),
        "img_dir": layout.images,
        "ann_dir": labels,
        "pipeline": _test_pipeline(info, normalization),
    }
    if names is not None:
        data["split"] = names
    if data["type"] == "CustomDataset":
        data |= {
            "classes": list(info.classes),
            "palette": [list(colour) for colour in info.palette],
            "img_suffix": info.image_suffix,
            "seg_map_suffix": info.label_suffix,
            "ignore_index": min(info.ignore_labels, default=255),
        }
    parts = {
        "model": {**model, "pretrained": None, "train_cfg": {}, "test_cfg": {"mode": "whole"}},
        "dataset_type": data["type"],
        "data": {"samples_per_gpu": 1, "workers_per_gpu": 2, "val": data, "test": data},
        "dist_params": {"backend": "nccl"},
        "log_level": "INFO",
    }
    return "\n".join(f"{name} = {pprint.pformat(value, width=110, sort_dicts=False)}" for name, value in parts.items())


def _test_pipeline(info: DatasetInfo, normalization: Normalization) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"type": "Resize", "keep_ratio": True},
        {"type": "RandomFlip"},
        {"type": "Normalize", "mean": normalization.mean, "std": normalization.std, "to_rgb": normalization.rgb},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"]},
    ]
    return [
        {"type": "LoadImageFromFile"},
        {"type": "MultiScaleFlipAug", "img_scale": tuple(info.eval_scale), "flip": False, "transforms": steps},
    ]
