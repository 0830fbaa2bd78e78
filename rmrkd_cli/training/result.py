"""The files a finished run leaves: `student.pth` and `result.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rmrkd_cli.checkpoints.reader import STUDENT_KIND
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.evaluation.evaluator import make_protocol
from rmrkd_cli.evaluation.flops import count_parameters_and_macs
from rmrkd_cli.evaluation.image_counts import ImageCounts
from rmrkd_cli.evaluation.machine import device_name
from rmrkd_cli.evaluation.precision import evaluation_settings
from rmrkd_cli.evaluation.result_record import make_record
from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.results.provenance import provenance
from rmrkd_cli.results.record import Record, to_json
from rmrkd_cli.storage.atomic import write_text
from rmrkd_cli.training.batches import loader_processes
from rmrkd_cli.training.kernels import kernel_settings
from rmrkd_cli.training.progress import Progress
from rmrkd_cli.training.setup import TrainingSetup
from rmrkd_cli.training.student_file import write_student


def write_result(setup: TrainingSetup, counts: ImageCounts, progress: Progress, dist_ctx: DistContext) -> Record:
    """Write the student as a plain mmsegmentation checkpoint, read it back, and write and return the result record.

    Rank 0 only.

    Args:
        counts: Of the last validation.
    """
    model, run_dir = setup.model, setup.run_dir
    write_student(model.student, setup.checkpoint_meta(STUDENT_KIND, progress.iteration), run_dir.student)
    loss_weights = {name: model.weights[name] for name in model.losses}
    record = make_record(
        counts, make_protocol(setup.info, setup.val_samples, "val"), per_image=counts.per_image(setup.val_samples),
        boundary=None,  # `eval` measures it on request
        name=setup.preset.name, role=setup.role,
        method=setup.preset.method, seed=setup.preset.seed, checkpoint=str(run_dir.student),
        training={**training_record(progress, setup.schedule, dist_ctx, loss_weights), **setup.training_images},
        evaluation=evaluation_settings(dist_ctx.device),
        best_miou=progress.best_miou if progress.best_iteration else None,
        **provenance(run_dir.student, setup.built.sources),
        **count_parameters_and_macs(model.student, setup.info.eval_scale),
    )  # fmt: skip
    write_text(to_json(record), run_dir.result)
    return record


def result_scalars(record: Record, classes: Sequence[str]) -> dict[str, float]:
    """Return the metrics of a result record for trackers, those between 0 and 1 in %; undefined ones are left out."""
    metrics = record["metrics"]
    names = {"mIoU": "miou", "mAcc": "macc", "aAcc": "aacc", "mDice": "mdice"}
    ratios = {name: metrics[key] for name, key in names.items()}
    ratios |= {f"IoU/{name}": value for name, value in zip(classes, metrics["iou"], strict=True)}
    ratios["best mIoU"] = record["best_miou"]
    counts = {
        "parameters": record.get("parameters"),
        "MACs": record.get("macs"),
        "training seconds": record["training"]["seconds"],
    }
    percent = {name: 100 * value for name, value in ratios.items() if value is not None}
    return percent | {name: float(value) for name, value in counts.items() if value is not None}


def training_record(
    progress: Progress, schedule: Schedule, dist_ctx: DistContext, loss_weights: Mapping[str, float]
) -> dict[str, Any]:
    """Return the `training` entry of the result record.

    Args:
        loss_weights: Weights of the distillation losses.
    """
    return {
        "iterations": progress.iteration,
        "seconds": progress.seconds,
        "data_seconds": progress.data_seconds,
        "loader_processes": loader_processes(schedule, dist_ctx),
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
        "amp": schedule.amp,
        **kernel_settings(dist_ctx.device.type),
        "weights": dict(loss_weights),
    }
