"""Jobs keep their values when they are written to a file and read by a worker process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rmrkd_cli.distributed.job import CacheJob, EvalJob, Job, PrepareJob, TrainJob, read_job, write_job
from rmrkd_cli.presets.loader import load_preset, preset_names

EVALUATION = EvalJob(
    preset=None, checkpoint="student.pth", dataset="demo", data_root=None, device="cpu", output="record.json",
    scales=(0.5, 1.0), crop=(512, 1024), stride=(341, 683), mode="slide",
)  # fmt: skip


def round_trip(job: Job, folder: Path) -> Job:
    write_job(job, folder / "job.json")
    return read_job(folder / "job.json")


@pytest.mark.parametrize("name", preset_names())
def test_a_training_job_keeps_its_preset(name: str, tmp_path: Path) -> None:
    job = TrainJob(preset=load_preset(name), run_dir="runs/distill", device="cpu", code=("loss.py",), force=True)
    assert round_trip(replace(job, track=("wandb", "mlflow")), tmp_path).track == ("wandb", "mlflow")
    assert round_trip(job, tmp_path) == job


def test_the_preparation_of_a_machine_keeps_its_presets(tmp_path: Path) -> None:
    runs = ((load_preset("demo"), True), (load_preset("psp101-dl18-city"), False))
    job = PrepareJob(preset=load_preset("demo"), runs=runs, device="cuda", workers=8, code=("loss.py",))
    assert round_trip(job, tmp_path) == job


def test_the_storing_of_teacher_outputs_keeps_its_presets_and_tuples(tmp_path: Path) -> None:
    presets = (load_preset("demo"), load_preset("psp101-dl18-city"))
    job = CacheJob(presets=presets, out="out", device="cuda", scales=(0.5, 1.0), flip=True, top_k=3, code=("net.py",))
    assert round_trip(job, tmp_path) == job


def test_an_evaluation_job_keeps_its_tuples(tmp_path: Path) -> None:
    assert round_trip(EVALUATION, tmp_path) == EVALUATION
