"""The facts of a run that trackers get."""

from __future__ import annotations

import torch

from rmrkd_cli import __version__
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.evaluation.machine import device_name
from rmrkd_cli.presets.loader import to_yaml
from rmrkd_cli.presets.safe_yaml import parse_yaml
from rmrkd_cli.terminal import messages
from rmrkd_cli.training.progress import Progress
from rmrkd_cli.training.setup import TrainingSetup
from rmrkd_cli.training.trackers.base import LoggedBefore, TrackedRun


def describe_run(
    setup: TrainingSetup,
    progress: Progress,
    dist_ctx: DistContext,
    before: LoggedBefore,
) -> TrackedRun:
    """Return the description of a run for its trackers; `config` equals `config.yaml`."""
    facts = {
        "version": __version__,
        "torch": str(torch.__version__),
        "device": device_name(dist_ctx.device),
        "workers": dist_ctx.size,
        "run_directory": str(setup.run_dir.path.absolute()),
    }
    return TrackedRun(
        path=setup.run_dir.path, preset=setup.preset.name, role=setup.role, method=setup.preset.method,
        seed=setup.preset.seed, dataset=setup.info.name, config=parse_yaml(to_yaml(setup.preset), "preset"),
        facts=facts, log=messages.log, warn=messages.warn, iteration=progress.iteration, before=before,
    )  # fmt: skip
