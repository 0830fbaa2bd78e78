"""Everything one role trains with: preset, images, networks and run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rmrkd_cli import __version__
from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.data.sample_table import SampleTable
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.data.stored_outputs import StoredOutputs
from rmrkd_cli.data.unlabelled import count_labelled, find_training_samples
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distillation.factory import Built, build_distiller
from rmrkd_cli.distributed.job import TrainJob
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.presets.schema import Preset, Schedule
from rmrkd_cli.results.training_images import training_images
from rmrkd_cli.training.batches import training_batches
from rmrkd_cli.training.determinism import make_deterministic
from rmrkd_cli.training.run_directory import RunDir
from rmrkd_cli.training.student_file import describe_network


@dataclass(frozen=True)
class TrainingSetup:
    """What one role trains with; nothing of it changes during training except the weights of `model`.

    Attributes:
        built: Distiller, network config and sources of the weights, from the factory.
        model: The distiller on this worker's device.
        wrapped: The same inside DistributedDataParallel; `model` itself with one worker.
        image_cache: File of decoded training images, or None.
        outputs: Stored outputs of the teacher, or None.
    """

    preset: Preset
    role: str
    schedule: Schedule
    run_dir: RunDir
    info: DatasetInfo
    train_samples: SampleTable
    val_samples: SampleTable
    built: Built
    model: Distiller
    wrapped: nn.Module
    image_cache: Path | None
    outputs: StoredOutputs | None = None

    def batches(self, dist_ctx: DistContext, first_step: int, last_step: int | None) -> Iterator[list[Batch]]:
        """Yield this worker's batches of each step from `first_step` to `last_step` (exclusive; None: endless)."""
        return training_batches(
            self.preset, self.schedule, self.info, self.train_samples, dist_ctx,
            first_step=first_step, last_step=last_step, image_cache=self.image_cache, outputs=self.outputs,
        )  # fmt: skip

    @property
    def training_images(self) -> dict[str, Any]:
        """How many images are trained on, and where their labels come from; see `results.training_images`."""
        data = self.preset.data
        labelled, unlabelled = count_labelled(self.train_samples)
        return training_images(labelled, unlabelled, from_teacher=data.teacher_labels, threshold=data.label_threshold)

    def checkpoint_meta(self, kind: str, iteration: int) -> dict[str, Any]:
        """Return the `meta` entry of a checkpoint of this run.

        Args:
            kind: `RUN_KIND` or `STUDENT_KIND` of `checkpoints.reader`.
        """
        return {
            "kind": kind,
            "CLASSES": tuple(self.info.classes),
            "PALETTE": [list(colour) for colour in self.info.palette],
            **describe_network(self.built.config, self.info),
            "preset": self.preset.model_dump(mode="json", exclude_none=True),
            "dataset": self.info.name,
            "role": self.role,
            "method": self.preset.method,
            "seed": self.preset.seed,
            "iterations": iteration,
            "training_images": self.training_images,
            "sources": self.built.sources,
            "versions": {"rmrkd": __version__, "torch": str(torch.__version__)},
        }


def set_up_training(job: TrainJob, dist_ctx: DistContext, log: Callable[[str], None]) -> TrainingSetup:
    """Find the images of a job, and build its networks on this worker's device."""
    preset, info = job.preset, dataset_info(job.preset)
    train_samples, val_samples = find_training_samples(info, job.role), find_samples(info, "val")
    built = build_distiller(preset, job.role, info.num_classes, device=job.device, log=log, code=job.code, info=info)
    if preset.deterministic:
        make_deterministic(job.device)
    model = built.distiller.to_device(dist_ctx.device, inference_network)
    # A custom loss may not use all its layers in every step. Without cross-entropy, auxiliary heads get no gradient.
    may_skip_layers = "code" in built.sources or not model.label_source.exist
    may_skip_layers |= adapter_of(model.student).may_skip_layers
    return TrainingSetup(
        preset=preset,
        role=job.role,
        schedule=preset.schedule_for(job.role),
        run_dir=RunDir(Path(job.run_dir)),
        info=info,
        train_samples=train_samples,
        val_samples=val_samples,
        built=built,
        model=model,
        wrapped=dist_ctx.wrap_ddp(model, find_unused_parameters=may_skip_layers),
        image_cache=Path(job.image_cache) if job.image_cache is not None else None,
        outputs=built.stored_outputs(train_samples, preset.schedule_for(job.role).crop),
    )
