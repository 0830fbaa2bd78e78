"""A step with KD from a live teacher and from stored outputs, and a sample with stored outputs, beside the baseline."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.methods.steps import rounds
from benchmarks.networks import random_batch
from benchmarks.pairs import compare_tensors, time_pairs
from benchmarks.result import Benchmark, Result, Row, Setting
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.data.map_file import StoredMap, image_signature, write_map
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.data.stored_outputs import OutputFormat, StoredOutputs
from rmrkd_cli.data.transforms import TrainSet
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.networks.feature_maps import compute_logits
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.training.optimizer_step import TrainStep

MAX_STORED = 1.15  # by the baseline
TOLERANCE = 1e-3  # of the loss: float16 rounds the logits to 1/2048
STRIDE = 8


def benchmark_stored_teacher(setting: Setting) -> Result:
    preset = _preset(setting)
    classes = dataset_info(preset).num_classes
    batch = random_batch(preset)
    batch.labels.remainder_(classes)
    live, stored, baseline = (_step(preset, role, classes, setting) for role in ("live", "stored", "baseline"))
    teacher: Any = live.model.teacher
    with torch.no_grad():
        logits = compute_logits(teacher, batch.images.to(live.device)).half().cpu()
    with_logits = batch._replace(teacher_logits=logits)
    setting.log("  checking that both give the same loss")
    checked = compare_tensors(TOLERANCE)(_losses(live, batch), _losses(stored, with_logits))
    calls = [lambda: baseline([batch], 0), lambda: live([batch], 0), lambda: stored([with_logits], 0)]
    times = rounds(calls, setting)
    rows = [
        Row("live teacher, by the baseline", "s", times[0], times[1], bound=True),
        Row("stored outputs, by the baseline", "s", times[0], times[2], bound=True, goal=MAX_STORED),
        _sample_row(preset, classes, setting),
    ]
    what = (
        f"a training step of `{preset.name}` with KD from its live teacher, and from stored outputs of the teacher, "
        "against a step of the student alone, in turns in one process; and a sample of its loader on one core with the "
        "stored outputs of its image, against one without; the files are in the system's cache"
    )
    return Result("stored-teacher", what, checked, rows)


def _preset(setting: Setting) -> Preset:
    small = ["schedule.crop=[64, 64]", "schedule.batch_size=2"] if setting.quick else []
    return load_preset("demo", method="kd", overrides=["losses.kd.weight=1", "schedule.lr=1e-9", *small])


def _step(preset: Preset, role: str, classes: int, setting: Setting) -> TrainStep:
    """Return a step of the student with a live teacher, with stored outputs, or alone; from the same random weights."""
    device = torch.device(setting.device)
    name = "baseline" if role == "baseline" else "distill"
    built = build_distiller(preset, name, classes, device=device.type, log=lambda _: None, with_weights=False)
    model = built.distiller
    if role == "stored":
        losses: dict[str, Any] = dict(model.losses.items())
        model = Distiller(model.student, None, losses, model.stages, model.weights, stored_classes=classes)
    model = model.to_device(device, inference_network)
    model.train()
    return TrainStep(model, model, preset.schedule_for(name), device)


def _losses(step: TrainStep, batch: Batch) -> dict[str, Tensor]:
    torch.manual_seed(1)  # for the student's dropout
    return {name: value.detach() for name, value in step([batch], 0).items()}


def _sample_row(preset: Preset, classes: int, setting: Setting) -> Row:
    """Return the times of some samples without and with stored outputs."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, RMRKD_CACHE=folder):
        info = dataset_info(preset)
        files = SampleFiles(info, find_samples(info, "train")[:24])
        form = OutputFormat(folder, "benchmark", classes, None, False, STRIDE)
        for index, sample in enumerate(files.samples):
            image = files.image(index)
            size = image.shape[0], image.shape[1]
            values = torch.randn(classes, size[0] // STRIDE, size[1] // STRIDE).half()
            write_map(
                StoredMap(values, size, size, size, image_signature(image), 0, form.identity), form.path(sample.name)
            )
        crop = preset.schedule.crop
        outputs = StoredOutputs(form, files.samples, crop=crop, size=(crop[0] // STRIDE, crop[1] // STRIDE))
        plain, ours = (
            TrainSet(
                files, scale=info.scale, crop=crop, ratio_range=preset.data.ratio_range, seed=0, outputs=each
            )
            for each in (None, outputs)
        )  # fmt: skip
        sides = [partial(_read_samples, data) for data in (plain, ours)]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for side in sides:
                side()
            times = time_pairs(sides[0], sides[1], setting)
        finally:
            torch.set_num_threads(threads)
    return Row("a sample with outputs, by one without", "s", *times, bound=True)


def _read_samples(data: TrainSet) -> None:
    for number in range(24):
        data[number, number % len(data)]


BENCHMARKS: dict[str, Benchmark] = {"stored-teacher": benchmark_stored_teacher}
