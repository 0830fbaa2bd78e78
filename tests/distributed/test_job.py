"""Jobs keep their values when they are written to a file and read by a worker process."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmrkd_cli.distributed.job import EvalJob, Job, TrainJob, read_job, write_job
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
    assert round_trip(job, tmp_path) == job


def test_an_evaluation_job_keeps_its_tuples(tmp_path: Path) -> None:
    assert round_trip(EVALUATION, tmp_path) == EVALUATION
