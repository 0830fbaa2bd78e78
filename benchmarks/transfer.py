"""`rmrkd transfer`, against a process that reads the same file once and writes it once."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks.networks import build, preset
from benchmarks.pairs import check_and_time
from benchmarks.processes import output, rmrkd, time_process
from benchmarks.result import Benchmark, Disagreement, Result, Row, Setting
from rmrkd_cli.checkpoints.reader import RUN_KIND, save_torch
from rmrkd_cli.training.optimizer_step import TrainStep

_COPY = """
import sys, torch
torch.save(torch.load(sys.argv[1], map_location="cpu", weights_only=True), sys.argv[2])
"""
MAX_RATIO = 1.5


def benchmark_transfer(setting: Setting) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        source, copy, student = (Path(folder) / name for name in ("run.pth", "copy.pth", "student.pth"))
        write_checkpoint(source, setting.quick)
        size = source.stat().st_size
        checked, times = check_and_time(
            partial(_fresh, copy, sys.executable, "-c", _COPY, source, copy),
            partial(_fresh, student, rmrkd(), "transfer", source, student),
            _same_student,
            setting,
            settle=os.sync,  # pending writes of one side must not slow down the other
        )
        importing = statistics.median(time_process(setting, sys.executable, "-c", "import torch"))
    what = (
        f"`rmrkd transfer` of a training run's checkpoint of {size / 1e6:.0f} MB as a whole process, against a process "
        f"that imports torch, reads the whole file and writes it again; {importing:.2f} s for importing torch "
        "are subtracted from both sides"
    )
    theirs, ours = ([seconds - importing for seconds in side] for side in times)
    return Result(
        "transfer", what, checked, [Row("time without torch's import", "s", theirs, ours, bound=True, goal=MAX_RATIO)]
    )


def write_checkpoint(path: Path, quick: bool) -> None:
    """Write student, losses and optimizer with momentum, as training saves them."""
    spec = preset(quick)
    model = build(spec, "cpu").distiller
    step = TrainStep(model, model, spec.schedule_for("distill"), torch.device("cpu"))
    for parameter in step.parameters:
        parameter.grad = torch.randn_like(parameter)
    step.optimizer.step()
    contents = {"meta": {"kind": RUN_KIND}, "state_dict": model.state_dict(), **step.state(), "iteration": 1}
    save_torch(contents, path)


def _fresh(written: Path, *command: object) -> Path:
    """Run a command that writes a new file."""
    written.unlink(missing_ok=True)
    output(*command)
    return written


def _same_student(copy: Path, student: Path) -> str:
    checkpoint = torch.load(copy, weights_only=True)["state_dict"]
    theirs = {key.removeprefix("student."): value for key, value in checkpoint.items() if key.startswith("student.")}
    ours = torch.load(student, weights_only=True)["state_dict"]
    if theirs.keys() != ours.keys() or not all(torch.equal(theirs[key], ours[key]) for key in theirs):
        raise Disagreement("the transferred student differs from the one in the checkpoint")
    return f"all {len(ours)} tensors of the student are equal, bit by bit"


BENCHMARKS: dict[str, Benchmark] = {"transfer": benchmark_transfer}
