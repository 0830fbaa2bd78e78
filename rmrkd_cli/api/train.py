"""Train from Python, as `rmrkd train` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.api.train_settings import (
    TrainSettings,
    check_options,
    chosen_lengths,
    code_files,
    load_changed_preset,
    setting_texts,
)
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.installation.mmseg import require_mmseg
from rmrkd_cli.presets.user_code import allow_files
from rmrkd_cli.terminal.progress import progress_to
from rmrkd_cli.training.trackers.names import parse_trackers

if TYPE_CHECKING:
    from rmrkd_cli.distributed.cluster import Cluster
    from rmrkd_cli.presets.schema import Preset
    from rmrkd_cli.results.record import Record
    from rmrkd_cli.terminal.progress import ProgressUpdate


def train(
    preset: str | Path,
    *,
    role: str | None = None,
    method: str | None = None,
    recipe: str | None = None,
    code: Sequence[str] = (),
    settings: Mapping[str, Any] | Sequence[str] = (),
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    data_root: str | Path | None = None,
    unlabelled: str | Path | None = None,
    workers: int | None = None,
    cache: str | None = None,
    skip_corrupt: bool = False,
    teacher_checkpoint: str | Path | None = None,
    teacher_outputs: str | Path | None = None,
    student_checkpoint: str | Path | None = None,
    allow_partial: bool = False,
    min_teacher_miou: float | None = None,
    max_iters: int | None = None,
    time_budget: str | None = None,
    batch_size: int | None = None,
    amp: str | None = None,
    tf32: bool | None = None,
    deterministic: bool = False,
    skip_nonfinite: bool = False,
    device: str = "auto",
    gpus: int | None = None,
    nodes: int | None = None,
    node_rank: int | None = None,
    rdzv_endpoint: str | None = None,
    max_restarts: int | None = None,
    work_dir: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    fresh: bool = False,
    keep: int | None = None,
    track: str | Sequence[str] | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
) -> list[Record]:
    """Train a teacher, a baseline student, a distilled student, or all of them.

    Every run writes checkpoints, its log, `student.pth` and `result.json` to `<work_dir>/<role>`. All inputs are
    checked before the first step. Each argument is the option of `rmrkd train` of the same name; None stands for the
    preset's value.

    Args:
        preset: A preset's name, or your YAML file.
        role: "teacher", "baseline", "distill" or "all".
        method: A method, or `FILE.py:CLASS`.
        recipe: A published way to train, merged into the preset; see `rmrkd recipes`.
        code: Python files that may run, for losses and networks.
        settings: Other keys of the preset: `{"schedule.lr": 0.02}`, or texts such as `"schedule.lr=0.02"`.
        seed: Of weights, order of the images and augmentation.
        seeds: Train every role for each of these, in `<work_dir>/seed-N`.
        data_root: Folder of the images.
        unlabelled: Folder of more images, without label maps.
        workers: Loader processes.
        cache: "ram" or "disk" keeps decoded training images, "off" does not.
        skip_corrupt: Replace an image that cannot be read by the next one.
        teacher_checkpoint, student_checkpoint: A file, or "none" for random weights.
        teacher_outputs: Folder that `rmrkd cache-teacher` wrote.
        allow_partial: Load the tensors of a checkpoint that match, and leave the others random.
        min_teacher_miou: Stop if the teacher has less on the validation images, in percent.
        max_iters: Iterations of every role.
        time_budget: Time of steps instead of iterations, such as "2h" or "45s".
        batch_size: Images a step and worker.
        amp: "off", "bf16" or "fp16".
        tf32: Whether GPUs use TF32.
        deterministic: Use deterministic GPU kernels.
        skip_nonfinite: Skip steps whose loss or gradient is not finite.
        device: "auto", "cpu" or "cuda".
        gpus: Worker processes; more than one are processes of their own.
        nodes, node_rank, rdzv_endpoint, max_restarts: Of a training on several machines.
        work_dir: None for `work_dirs/<preset>`.
        resume: Continue an unfinished run; a finished one only returns its result.
        force: With `resume`, accept another number of GPUs or another batch size.
        fresh: Start over; the existing directory is renamed.
        keep: Newest checkpoints to keep.
        track: Of "tensorboard", "wandb" and "mlflow", where the run is recorded; "none" for nowhere. None: TensorBoard.
        progress: Called after every step and validated image, if the training runs in this process (`gpus` is 1).
            What it raises ends the run, and `resume` continues from its last checkpoint.

    Returns:
        The contents of each run's `result.json`, in the order of training.

    Raises:
        RmrkdError: For a wrong argument or input, before the first step.
        RunError: If a training fails.
    """
    given = {**locals(), "preset": str(preset), "settings": setting_texts(settings)}
    del given["progress"]
    paths = ("data_root", "unlabelled", "teacher_checkpoint", "teacher_outputs", "student_checkpoint")
    given |= {name: str(given[name]) for name in paths if given[name] is not None}
    options = TrainSettings(**{**given, "work_dir": Path(work_dir) if work_dir is not None else None})
    with progress_to(progress):
        return train_preset(prepare(options), options)


def prepare(options: TrainSettings) -> Preset:
    """Return the preset with all changes, and allow the files of code that the options name.

    Raises:
        RmrkdError: For an invalid preset, value, or combination of options.
    """
    check_options(options)
    preset = load_changed_preset(options)
    allow_files(code_files(options))
    require_mmseg()
    from rmrkd_cli.distillation.custom_loss import check_named

    if preset.role in ("distill", "all"):
        check_named(preset, code_files(options))
    return preset


def train_preset(preset: Preset, options: TrainSettings) -> list[Record]:
    """Train the preset on the chosen devices and machines. Return no records on machines other than the first."""
    from rmrkd_cli.data import loader_server

    if {options.gpus, options.nodes} <= {None, 1}:  # before this process imports torch, which takes as long
        loader_server.start_loader_server(preset.schedule.workers)
    from rmrkd_cli.training.run import train as train_runs

    device, cluster = _choose_devices(options)
    return train_runs(
        preset, options.work_dir, device, cluster, seeds=options.seeds, code=code_files(options),
        resume=options.resume, fresh=options.fresh, force=options.force, chosen_lengths=chosen_lengths(preset, options),
        track=parse_trackers(options.track),
    )  # fmt: skip


def _choose_devices(options: TrainSettings) -> tuple[str, Cluster]:
    """Return the device kind, and the workers: another launcher's, else Slurm's, else those of the options."""
    from rmrkd_cli.distributed.cluster import external_cluster, resolve_cluster
    from rmrkd_cli.distributed.coordination import current_coordinator
    from rmrkd_cli.distributed.device import choose_device, choose_external_device
    from rmrkd_cli.distributed.slurm import read_slurm_step

    machines: dict[str, Any] = {
        "nodes": options.nodes, "node_rank": options.node_rank, "rdzv_endpoint": options.rdzv_endpoint,
        "max_restarts": options.max_restarts,
    }  # fmt: skip
    if (coordinator := current_coordinator()) is not None:
        cluster = external_cluster(coordinator, gpus=options.gpus, **machines)
        if options.fresh and coordinator.restarted:
            raise RmrkdError(
                "--fresh: the launcher has restarted the workers, and --fresh would drop what this run has trained",
                "give --resume instead of --fresh where a launcher may restart workers",
            )
        return choose_external_device(options.device, coordinator.local_size), cluster
    slurm, gpus = read_slurm_step(), options.gpus
    if slurm is not None and gpus is None and options.device != "cpu":
        gpus = slurm.gpus
    device, workers = choose_device(options.device, gpus)
    return device, resolve_cluster(workers=workers, slurm=slurm, **machines)
