"""TensorBoard: event files in the run directory."""

from __future__ import annotations

from collections.abc import Mapping

from rmrkd_cli.training.trackers.base import Image, Outcome, TrackedRun, Tracker


class TensorBoardTracker(Tracker):
    """Writes `tensorboard/` in the run directory. After a resume, steps beyond the checkpoint are purged."""

    name = "tensorboard"

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge_step = run.iteration + 1 if run.iteration else None
        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=purge_step)

    def log_step(self, scalars: Mapping[str, float], iteration: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, iteration)

    def log_validation(self, scalars: Mapping[str, float], class_iou: Mapping[str, float], iteration: int) -> None:
        self.log_step(scalars, iteration)

    def log_images(self, images: Mapping[str, Image], iteration: int) -> None:
        for name, image in images.items():
            self._writer.add_image(f"validation/{name}", image, iteration, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self, outcome: Outcome, seconds: float) -> None:
        self._writer.close()
