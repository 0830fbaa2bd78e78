"""What a run leaves for others: the student as a plain mmsegmentation checkpoint, with its config and origin inside."""

from __future__ import annotations

import pprint
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rmrkd_cli import __version__
from rmrkd_cli.checkpoints.reader import load_state_dict_checked, read_checkpoint, save_torch
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.transforms import NORMALIZE
from rmrkd_cli.distillation.factory import Built
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.evaluation.machine import device_name
from rmrkd_cli.presets.schema import Preset, Schedule
from rmrkd_cli.training.progress import Progress

_MMSEG_TYPES = {"cityscapes": "CityscapesDataset", "voc12aug": "PascalVOCDataset", "ade20k": "ADE20KDataset"}


def write_student(network: nn.Module, meta: Mapping[str, Any], path: Path) -> None:
    """A plain mmsegmentation checkpoint, read back into the network before it counts."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    save_torch({"meta": dict(meta), "state_dict": state}, path)
    load_state_dict_checked(network, read_checkpoint(path, verified=True).student(), str(path))


def checkpoint_meta(
    kind: str, *, preset: Preset, role: str, info: DatasetInfo, built: Built, iteration: int
) -> dict[str, Any]:
    """What every checkpoint of a run says of itself."""
    return {
        "kind": kind,
        "CLASSES": tuple(info.classes),
        "PALETTE": [list(colour) for colour in info.palette],
        "config": mmseg_config_text(built.config, info),
        "preset": preset.model_dump(mode="json", exclude_none=True),
        "dataset": info.name,
        "role": role,
        "method": preset.method,
        "seed": preset.seed,
        "iterations": iteration,
        "sources": built.sources,
        "versions": {"rmrkd": __version__, "torch": str(torch.__version__)},
    }


def training_facts(
    progress: Progress, schedule: Schedule, dist_ctx: DistContext, weights: Mapping[str, float]
) -> dict[str, Any]:
    """What training took and met, for the result's record.

    Args:
        weights: Of the distillation losses.
    """
    return {
        "iterations": progress.iteration,
        "seconds": progress.seconds,
        "seconds_per_step": progress.seconds / max(1, progress.iteration),
        "skipped_steps": progress.skipped,
        "left_out_images": progress.left_out,
        "left_out_files": progress.left_out_files,
        "changes": progress.changes,
        "workers": dist_ctx.size,
        "batch_size": schedule.batch_size,
        "accumulate": schedule.accumulate,
        "time_budget": schedule.time_budget,
        "device": device_name(dist_ctx.device),
        "weights": dict(weights),
    }


def mmseg_config_text(model: Mapping[str, Any], info: DatasetInfo) -> str:
    """Python text that mmcv's `Config` reads and mmsegmentation's `tools/test.py` evaluates with."""
    split = "val" if "val" in info.splits else next(iter(info.splits))
    layout = info.splits[split]
    names, labels = layout.parts[0]
    data: dict[str, Any] = {
        "type": _MMSEG_TYPES.get(info.name, "CustomDataset"),
        "data_root": str(info.root),
        "img_dir": layout.images,
        "ann_dir": labels,
        "pipeline": _test_pipeline(info),
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


def _test_pipeline(info: DatasetInfo) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"type": "Resize", "keep_ratio": True},
        {"type": "RandomFlip"},
        {"type": "Normalize", **NORMALIZE},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"]},
    ]
    return [
        {"type": "LoadImageFromFile"},
        {"type": "MultiScaleFlipAug", "img_scale": tuple(info.eval_scale), "flip": False, "transforms": steps},
    ]
