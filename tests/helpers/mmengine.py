"""Files as mmsegmentation 1.x writes them, with a stand-in for mmengine's objects beside the weights."""

from __future__ import annotations

import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


class HistoryBuffer:
    """Pickled as mmengine's class of this name: with its functions, which a pickle names as `getattr(class, name)`."""

    def __init__(self, values: list[float]) -> None:
        self._log_history, self._count_history = np.array(values), np.ones(len(values))
        self.max_length = 1_000_000

    def mean(self) -> float:
        return float(self._log_history.mean())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "statistics_methods": {"mean": HistoryBuffer.mean}}


@contextmanager
def mmengine_modules() -> Iterator[None]:
    """Let `HistoryBuffer` be pickled as mmengine's; the modules are gone afterwards."""
    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    HistoryBuffer.__module__ = names[-1]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules[names[-1]].HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    yield
    for name in names:
        del sys.modules[name]


# The text of a config as `mmengine.Config.pretty_text` gives it: sorted keys, one value a line.
CONFIG = """\
crop_size = (
    48,
    48,
)
data_preprocessor = {preprocessor}
dataset_type = 'BaseSegDataset'
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=4000, type='CheckpointHook'),
    logger=dict(interval=50, log_metric_by_epoch=False, type='LoggerHook'))
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
launcher = 'none'
load_from = None
model = dict(
    auxiliary_head=dict(
        align_corners=False, channels=8, concat_input=False, dropout_ratio=0.1, in_channels=32, in_index=2,
        loss_decode=dict(loss_weight=0.4, type='CrossEntropyLoss', use_sigmoid=False),
        norm_cfg=dict(requires_grad=True, type='SyncBN'), num_classes=11, num_convs=1, type='{scope}FCNHead'),
    backbone=dict(
        base_channels=8, contract_dilation=True, depth=18,
        dilations=(
            1,
            1,
            2,
            4,
        ),
        init_cfg=dict(checkpoint='open-mmlab://resnet18_v1c', type='Pretrained'),
        norm_cfg=dict(requires_grad=True, type='SyncBN'), norm_eval=False, num_stages=4, out_indices=(0, 1, 2, 3),
        stem_channels=8, strides=(1, 2, 1, 1), style='pytorch', type='{scope}ResNetV1c'),
    data_preprocessor={preprocessor},
    decode_head=dict(
        align_corners=False, channels=8, dropout_ratio=0.1, in_channels=64, in_index=3,
        loss_decode=dict(loss_weight=1.0, type='CrossEntropyLoss', use_sigmoid=False),
        norm_cfg=dict(requires_grad=True, type='SyncBN'), num_classes=11, pool_scales=(1, 2, 3, 6),
        type='{scope}PSPHead'),
    pretrained=None,
    test_cfg=dict(mode='whole'),
    train_cfg=dict(),
    type='{scope}EncoderDecoder')
optim_wrapper = dict(
    clip_grad=None,
    optimizer=dict(lr=0.01, momentum=0.9, type='SGD', weight_decay=0.0005),
    type='OptimWrapper')
param_scheduler = [
    dict(
        begin=0,
        by_epoch=False,
        end=80000,
        eta_min=0.0001,
        power=0.9,
        type='PolyLR'),
]
resume = False
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(keep_ratio=True, scale=(
        96,
        64,
    ), type='Resize'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
"""
IMAGENET = "mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]"


def config_text(numbers: str = IMAGENET, *, rgb: bool = True, scope: str = "") -> str:
    """Return a config of mmsegmentation 1.x for the student of the fixture `tiny`, with 11 classes.

    Args:
        numbers: `mean` and `std` of the preprocessor.
        scope: Before the names of classes, such as `mmseg.models.`.
    """
    preprocessor = f"dict(bgr_to_rgb={rgb}, {numbers}, pad_val=0, seg_pad_val=255, type='SegDataPreProcessor')"
    return CONFIG.format(preprocessor=preprocessor, scope=scope)


def write_checkpoint(network: nn.Module, path: Path, config: str, classes: list[str]) -> None:
    """Write a training file as mmengine's runner does; call it within `mmengine_modules`."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    meta = {
        "epoch": 0, "iter": 40, "cfg": config, "seed": 1, "experiment_name": "tiny_20240101_000000",
        "time": "20240101_000100", "mmengine_version": "0.10.4", "hook_msgs": {"best_score": np.float64(3.0)},
        "dataset_meta": {
            "classes": tuple(classes), "palette": [[n, n, n] for n in range(len(classes))], "label_map": None,
            "reduce_zero_label": False,
        },
    }  # fmt: skip
    hub = {
        "log_scalars": OrderedDict({"train/loss": HistoryBuffer([0.5] * 40), "train/lr": HistoryBuffer([0.01] * 40)}),
        "runtime_info": OrderedDict({"cfg": config, "iter": 40, "max_iters": 40, "mIoU": np.float64(1.5)}),
        "resumed_keys": OrderedDict({"train/loss": True}),
    }
    scheduler = {"eta_min": 1e-4, "power": 0.9, "begin": 0, "end": 80000, "by_epoch": False, "base_values": [0.01],
        "last_step": 40, "_global_step": 41, "verbose": False, "_last_value": [0.0099]}  # fmt: skip
    state = OrderedDict(network.state_dict())
    state["data_preprocessor.mean"] = torch.ones(3, 1, 1)  # its files before 1.0 had these
    state["data_preprocessor.std"] = torch.ones(3, 1, 1)
    contents = {"meta": meta, "state_dict": state, "message_hub": hub, "optimizer": optimizer.state_dict()}
    torch.save({**contents, "param_schedulers": [scheduler]}, path)
