"""Everything of rmrkd that runs on a GPU: training steps, resuming, evaluation, prediction, loss weights, latency."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.transforms import EvalItem, View
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.doctor import training as doctor
from rmrkd_cli.evaluation import evaluator
from rmrkd_cli.evaluation.inference_modes import Window
from rmrkd_cli.evaluation.latency import measure_latencies
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.prediction.segmenter import Segmenter
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.training.determinism import warm_up_ddp_buckets
from rmrkd_cli.training.loss_weights import compute_auto_weights
from tests.fake_cuda.step import (
    CUDA,
    Job,
    build,
    load,
    make_batch,
    prepare,
    process_group,
    settings_of,
    take_step,
    take_steps,
)
from tests.fake_cuda.watch import Report, Watch

_SIDE = 96
_ALONE = DistContext(0, 1, CUDA)


def run_job(job: Job) -> Report:
    """Return what a job does on the GPU.

    Raises:
        FakeTensorDeviceMismatchError: When a CPU tensor meets a CUDA tensor.
    """
    preset = load(job)
    watch = Watch()
    with process_group(job.ranks), settings_of(job), FakeTensorMode(), watch:
        PATHS[job.what](preset, job, build(preset, job), watch)
    return watch.report


def _resume(preset: Preset, job: Job, model: Distiller, watch: Watch) -> None:
    """Restore optimizers and gradient scaler from CPU tensors, as a checkpoint has them, and take a step."""
    step, update = prepare(preset, job, model)
    take_step(step, update, make_batch(preset, job), preset.seed, 0)
    update.finish_step()
    on_cpu = tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, step.state())
    resumed, update = prepare(preset, job, model)
    model.load_state_dict({name: value.cpu() for name, value in model.state_dict().items()})
    resumed.restore(on_cpu)
    take_step(resumed, update, make_batch(preset, job), preset.seed, 1)
    watch.start()
    take_step(resumed, update, make_batch(preset, job), preset.seed, 2)


def _weights(preset: Preset, job: Job, model: Distiller, watch: Watch) -> None:
    """Compute automatic weights, and warm up DDP's buckets."""
    watch.start()
    schedule = preset.schedule_for(job.role)
    batches = [make_batch(preset, job)] * 2
    compute_auto_weights(model, batches, list(preset.losses), schedule, preset.seed, _ALONE)
    warm_up_ddp_buckets(model, model, schedule.crop, CUDA)


def _evaluate(preset: Preset, job: Job, model: Distiller, watch: Watch, window: Window | None = None) -> None:
    info = dataset_info(preset)
    labels = torch.zeros(_SIDE, _SIDE, dtype=torch.uint8)
    items = [EvalItem(_views(), labels, 0), EvalItem(_views(), None, 1)]
    dataset: Any = SimpleNamespace(files=SimpleNamespace(info=info), views=SimpleNamespace(scales=(1.0,)))
    watch.start()
    with patch.object(evaluator, "evaluation_images", lambda *_, **__: iter(items)):
        counts = evaluator.evaluate(model.student, _Sized(dataset, 2), _ALONE, window=window)
    assert counts.matrix.device.type == "cuda"
    counts.result()


def _slide(preset: Preset, job: Job, model: Distiller, watch: Watch) -> None:
    _evaluate(preset, job, model, watch, Window((64, 64), (48, 48)))


def _predict(preset: Preset, job: Job, model: Distiller, watch: Watch) -> None:
    """Predict one image, from two views, whole and by a sliding window."""
    network = inference_network(model.student, "cuda")
    watch.start()
    for window in (None, Window((64, 64), (48, 48))):
        unused: Any = None
        Segmenter(network, CUDA, unused, window).segment(_views(flip=True))
        Segmenter(network, CUDA, unused, window).segment(_views())


def _latency(preset: Preset, job: Job, model: Distiller, watch: Watch) -> None:
    watch.start()
    measure_latencies([model.student, model.student], (_SIDE, _SIDE), CUDA, budget=0.0)


def _doctor(preset: Preset, job: Job, model: Distiller, watch: Watch) -> None:
    """Take the doctor's training steps."""
    watch.start()
    with patch.object(doctor, "SECONDS", 0.0):
        doctor._train("cuda:0")


class _Sized:
    """A data set of some length without images."""

    def __init__(self, attributes: Any, length: int) -> None:
        self.__dict__.update(vars(attributes))
        self.length = length

    def __len__(self) -> int:
        return self.length


def _views(*, flip: bool = False) -> list[View]:
    kinds = (False, True) if flip else (False,)
    image = torch.zeros(1, 3, _SIDE, _SIDE)
    return [(image, {"ori_shape": (_SIDE, _SIDE, 3), "flip": flipped}) for flipped in kinds]


PATHS: dict[str, Callable[[Preset, Job, Distiller, Watch], None]] = {
    "step": take_steps,
    "resume": _resume,
    "weights": _weights,
    "evaluate": _evaluate,
    "slide": _slide,
    "predict": _predict,
    "latency": _latency,
    "doctor": _doctor,
}
