"""Whole runs of `rmrkd train` under `--deterministic`: killed and resumed, with a process group, and with `--amp`."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_parts.common import FP32, ROOT, Options, Record, load
from rmrkd_cli.data import demo
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.distributed.device import BACKEND
from rmrkd_cli.training.run_directory import RunDir

_POLL = 0.02


@dataclass
class TrainCommand:
    """A `rmrkd train` of the demo's student, in a process of its own."""

    options: Options
    name: str
    iterations: int
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.options.folder / self.name / "distill")

    @property
    def output(self) -> Path:
        return self.options.folder / f"{self.name}.txt"

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        interval = max(1, self.iterations // 4)
        settings = {
            "schedule.checkpoint_interval": interval, "schedule.eval_interval": self.iterations,
            "schedule.log_interval": 1, "schedule.keep": 100, "schedule.batch_size": 2 if self.options.toy else 8,
        }  # fmt: skip
        command = [
            sys.executable, "-m", "rmrkd_cli", "train", "--preset", "demo", "--role", "distill", "--deterministic",
            "--teacher-checkpoint", str(self.options.folder / "teacher.pth"), "--min-teacher-miou", "0",
            "--device", self.options.device, "--work-dir", str(self.options.folder / self.name),
            "--max-iters", str(self.iterations), "--workers", "1",
            "--data-root", str(data_root(self.options)), *self.arguments, *more,
        ]  # fmt: skip
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        with self.output.open("ab") as stream:
            environment = {**os.environ, **dict(self.environment)}
            return subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, env=environment)


def run(options: Options, record: Record) -> None:
    """Record the differences of a resumed run, and of runs with a process group, from an uninterrupted one."""
    _prepare(options)
    iterations = 3 if options.toy else 40
    whole, killed, groups, half = _commands(options, iterations)
    started = {command.name: command.start() for command in (whole, *groups, *half)}
    killed_at = _kill_when_saved(killed)
    resumed = killed.start("--resume").wait()
    ends = {name: process.wait() for name, process in started.items()}
    record({"what": "kill -9 and --resume", "killed after iteration": killed_at} | _compare(whole, killed, resumed))
    for command in groups:
        record({"what": command.name} | _compare(whole, command, ends[command.name]))
    for command in half:
        record({"what": command.name} | _losses(command, ends[command.name]))


def _prepare(options: Options) -> None:
    """Write a random teacher, and draw images for all runs."""
    preset = load("demo", FP32)
    classes = dataset_info(preset).num_classes
    built = build_distiller(preset, "teacher", classes, device="cpu", log=lambda _: None, with_weights=False)
    torch.save({"state_dict": built.distiller.student.state_dict()}, options.folder / "teacher.pth")
    for split, count in {"train": 8, "val": 4}.items() if options.toy else demo.SPLITS.items():
        for number in range(count):
            image, labels = demo.draw(np.random.default_rng([demo.SEED, len(split), number]))
            for folder, pixels in ((split, image), (f"{split}annot", labels)):
                path = data_root(options) / folder / f"{number:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)


def data_root(options: Options) -> Path:
    """Return the folder of the images."""
    return options.folder / "demo"


def _commands(
    options: Options, iterations: int
) -> tuple[TrainCommand, TrainCommand, list[TrainCommand], list[TrainCommand]]:
    """Return the uninterrupted run, the one to kill, those with a process group, and those with mixed precision."""
    backend = "nccl" if options.device == "cuda" else "gloo"
    group = TrainCommand(options, f"one worker, DDP over {backend}", iterations, environment=((BACKEND, backend),))
    half = [TrainCommand(options, f"--amp {amp}", iterations, ("--amp", amp)) for amp in ("bf16", "fp16")]
    whole, killed = (TrainCommand(options, name, iterations) for name in ("uninterrupted", "killed"))
    return whole, killed, [group], half if options.device == "cuda" else []


def _kill_when_saved(command: TrainCommand) -> int:
    """Kill a run with SIGKILL once its first checkpoint exists, and return the iteration of its newest."""
    process = command.start()
    folder = command.run_dir.path
    while process.poll() is None and not list(folder.glob("iter_*.pth")):
        time.sleep(_POLL)
    process.kill()
    process.wait()
    return max((int(path.stem.removeprefix("iter_")) for path in folder.glob("iter_*.pth")), default=0)


def _compare(whole: TrainCommand, other: TrainCommand, exit_code: int) -> dict[str, Any]:
    """Return how many tensors of the last checkpoint differ between two runs, and by how much at most."""
    if exit_code != 0:
        return {"error": _last_line(other)}
    expected, got = (
        dict(_tensors(torch.load(command.run_dir.checkpoints.last, map_location="cpu", weights_only=True)))
        for command in (whole, other)
    )
    if expected.keys() != got.keys():
        return {"error": "the checkpoints have other entries"}
    different = [name for name in expected if not torch.equal(expected[name], got[name])]
    largest = max(
        (float((expected[name].double() - got[name].double()).abs().max()) for name in different), default=0.0
    )
    return {"tensors": len(expected), "different": len(different), "largest difference": largest}


def _losses(command: TrainCommand, exit_code: int) -> dict[str, Any]:
    """Return the first and last total loss of a run's log, and whether all are finite."""
    if exit_code != 0:
        return {"error": _last_line(command)}
    lines = [json.loads(line) for line in (command.run_dir.path / "log.jsonl").read_text().splitlines()]
    totals = [line["total"] for line in lines if "total" in line]
    finite = bool(totals) and all(math.isfinite(total) for total in totals)
    return {"iterations": len(totals), "first total": totals[0], "last total": totals[-1], "finite": finite}


def _tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of weights and optimizers, with their paths."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _tensors(each, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for number, each in enumerate(value):
            yield from _tensors(each, f"{path}/{number}")


def _last_line(command: TrainCommand) -> str:
    lines = [line for line in command.output.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["no output"])[-1][:300]
