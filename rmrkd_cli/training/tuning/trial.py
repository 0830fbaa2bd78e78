"""Train one trial: a short distillation with some settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.training.run import train
from rmrkd_cli.training.validation_watch import watch_validations

_VALIDATIONS = 5  # of a trial, at which it can be pruned
_SHARE = 10  # of the preset's iterations: the length of a trial where none is given
_MIN_ITERS = 10
_CHECKPOINTS = ("iter_*.pth", "last.pth", "best.pth")


@dataclass(frozen=True)
class Outcome:
    """mIoU (0 to 1) of a finished trial, and the weights of its losses."""

    miou: float
    weights: dict[str, float]


@dataclass(frozen=True)
class TuningJob:
    """What is tuned.

    Attributes:
        preset: Name or file.
        method: A method; None for the preset's losses.
        settings: The texts of `--set` for all trials.
        iters: Iterations of a trial; None for a tenth of the preset's.
        device: "auto", "cpu" or "cuda".
        code: Python files that may run.
    """

    preset: str
    work_dir: Path
    method: str | None = None
    settings: tuple[str, ...] = ()
    iters: int | None = None
    seed: int = 0
    device: str = "auto"
    code: tuple[str, ...] = ()

    def load(self, *, role: str = "distill", changes: Sequence[str] = ()) -> Preset:
        """Return the preset of the trials, or of their teacher."""
        preset = load_preset(self.preset, method=self.method, overrides=[*self.settings, f"role={role}", *changes])
        if role == "teacher":
            return preset
        iters = self.iters or max(_MIN_ITERS, preset.schedule.iters // _SHARE)
        interval = max(1, iters // _VALIDATIONS)
        short = {
            "iters": iters, "time_budget": None, "eval_interval": interval, "checkpoint_interval": interval, "keep": 1,
        }  # fmt: skip
        changed: dict[str, object] = {"schedule": preset.schedule.model_copy(update=short)}
        if not preset.teacher.is_trained and preset.teacher.outputs is None:
            from rmrkd_cli.presets.network_schema import CheckpointSource

            source = CheckpointSource(path=str(self.work_dir / "teacher" / "student.pth"))
            changed["teacher"] = preset.teacher.model_copy(update={"checkpoint": source})
        return preset.model_copy(update=changed)


def train_teacher(job: TuningJob) -> None:
    """Train the teacher if the preset has none yet; continue an unfinished training of it."""
    preset = resolved(job.load(role="teacher"))
    if not preset.teacher.is_trained and preset.teacher.outputs is None:
        train(preset, job.work_dir, job.device, code=job.code, resume=True)


def resolved(preset: Preset) -> Preset:
    """Return the preset with the weights of its teacher looked up, which may make the teacher a trained one."""
    if preset.teacher.weights is None:
        return preset
    from rmrkd_cli.networks.libraries import resolve_weights

    return resolve_weights(preset)


def run_trial(job: TuningJob, name: str, changes: Sequence[str], watcher: Callable[[int, float], None]) -> Outcome:
    """Train one trial, or continue it, and return its result. Its checkpoints are deleted at the end.

    Args:
        name: Of its folder.
        changes: The texts of `--set` with its settings.
        watcher: Called at each validation; what it raises ends the trial.

    Raises:
        RmrkdError, RunError, Interrupted: As `train`.
    """
    preset, folder = job.load(changes=changes), job.work_dir / name
    with watch_validations(watcher):
        (record,) = train(preset, folder, job.device, code=job.code, resume=True)
    remove_checkpoints(folder)
    weights = {key: float(value) for key, value in (record["training"].get("weights") or {}).items()}
    return Outcome(float(record["metrics"]["miou"]), weights)


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a trial that is over; its log, its student and its result stay."""
    for pattern in _CHECKPOINTS:
        for path in folder.glob(f"*/{pattern}"):
            with suppress(OSError):
                path.unlink()
