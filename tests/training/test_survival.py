"""Interrupted, damaged and diverging runs: each resumes to the same result, or stops with the reason."""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import Interrupted, RmrkdError, WorkerLostError
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.signals import StopRequest
from rmrkd_cli.training import trainer
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.run import train
from rmrkd_cli.training.run_directory import RunDir
from tests.helpers.forked import server, start_in_terminal
from tests.training.test_training import stop_in_validation

SCHEDULE = ("role=baseline", "schedule.iters=4", "schedule.eval_interval=2", "schedule.checkpoint_interval=1")


NETWORK = """
  config: fcn/fcn_r18-d8_512x1024_80k_cityscapes.py
  init: scratch
  overrides:
    backbone: {base_channels: 4, stem_channels: 4, num_stages: 1, strides: [1], dilations: [1], out_indices: [0]}
    decode_head: {in_channels: 4, in_index: 0, channels: 4, num_convs: 0, concat_input: false}
    auxiliary_head: null
"""
SMALLEST = """
dataset: camvid
data: {{root: {root}, train_scale: [48, 32], eval_scale: [48, 32]}}
teacher: {network}
student: {network}
losses:
  dkd: {{type: dkd, weight: 1.0}}
schedule:
  {{iters: 4, batch_size: 2, crop: [32, 32], workers: 0, eval_interval: 2, checkpoint_interval: 2, log_interval: 1}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, camvid: Path) -> Path:
    """A preset whose networks have one stage, because this module trains more than fifty runs."""
    path = tmp_path_factory.mktemp("preset") / "smallest.yaml"
    path.write_text(SMALLEST.format(root=camvid, network=NETWORK))
    return path


class Killed(BaseException):
    """Like SIGKILL: a BaseException, which no handler catches."""


def run(tiny: Path, work_dir: Path, *overrides: str, **options: bool) -> list[dict]:
    return train(load_preset(str(tiny), overrides=[*SCHEDULE, *overrides]), work_dir, "cpu", Cluster(), **options)


def log_of(work_dir: Path) -> list[dict]:
    """Return the lines of a log without times and memory."""
    lines = [json.loads(line) for line in (work_dir / "baseline" / "log.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if "seconds" not in k and k not in ("elapsed", "peak_memory")} for line in lines
    ]


def student_of(work_dir: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(work_dir / "baseline" / "student.pth").state


def assert_same_result(work_dir: Path, reference: Path) -> None:
    student, expected = student_of(work_dir), student_of(reference)
    assert student.keys() == expected.keys()
    assert all(torch.equal(student[key], expected[key]) for key in expected)
    assert log_of(work_dir) == log_of(reference)
    for name in ("last.pth", "best.pth"):
        saved, expected_file = (read_checkpoint(path / "baseline" / name) for path in (work_dir, reference))
        assert saved.rest["iteration"] == expected_file.rest["iteration"]
        assert saved.rest["best_miou"] == expected_file.rest["best_miou"]
    assert not list((work_dir / "baseline").glob(".*"))


@pytest.fixture(scope="module")
def reference(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of four steps with two validations."""
    work_dir = tmp_path_factory.mktemp("reference")
    run(tiny, work_dir)
    return work_dir


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_kill_before_and_after_every_file_operation(
    after: bool, tiny: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run is killed one operation later."""
    rename, points = os.replace, 0
    for number in range(100):
        left = number

        def replace_and_die(source: Path, target: Path) -> None:
            nonlocal left
            left -= 1
            if left < 0 and not after:
                raise Killed
            rename(source, target)
            if left < 0:
                raise Killed

        work_dir = tmp_path / str(number)
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", replace_and_die)
            try:
                run(tiny, work_dir)
            except Killed:
                points += 1
            else:
                break
        run(tiny, work_dir, resume=True)
        assert_same_result(work_dir, reference)
        shutil.rmtree(work_dir)
    assert points > 10


def test_a_stop_in_a_validation_and_a_kill_after_it_log_no_line_twice(
    tiny: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal saves the state before the validation. A line of the resumed validation must not survive a kill."""
    with monkeypatch.context() as patched:
        stop_in_validation(patched)
        with pytest.raises(Interrupted):
            run(tiny, tmp_path)
    with monkeypatch.context() as patched:

        def killed(*_: object, **__: object) -> None:
            raise Killed

        patched.setattr(trainer.Checkpointer, "save", killed)
        with pytest.raises(Killed):
            run(tiny, tmp_path, resume=True)
    assert "val_miou" in log_of(tmp_path)[-1]
    run(tiny, tmp_path, resume=True)
    assert_same_result(tmp_path, reference)


def test_a_damaged_checkpoint_is_skipped_and_named(
    tiny: Path, reference: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(reference, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "baseline"
    for name in ("student.pth", "result.json", "last.pth", "best.pth"):
        (folder / name).unlink()
    os.truncate(folder / "iter_4.pth", 1000)
    run(tiny, tmp_path, resume=True)
    err = capfd.readouterr().err
    assert "iter_4.pth` is damaged (it has no digest at its end" in err
    assert "resuming from" in err
    assert "iter_3.pth" in err
    assert (folder / "iter_4.pth.damaged").is_file()
    assert_same_result(tmp_path, reference)


def poison(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Set one pixel of one image of these steps to NaN."""
    backward = TrainStep.backward

    def poisoned(self: TrainStep, batches: list[Batch], step: int) -> dict:
        if step in steps:
            batches[0].images[1, 0, 0, 0] = float("nan")
        return backward(self, batches, step)

    monkeypatch.setattr(TrainStep, "backward", poisoned)


def set_asynchronous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let updates be skipped as on a GPU: by the device, and reported one step later."""
    original = TrainStep.__init__
    monkeypatch.setattr(TrainStep, "__init__", lambda self, *args: original(self, *args, asynchronous=True))


@pytest.fixture(params=[False, True], ids=["host decides", "device decides"])
def asynchronous(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether updates are skipped as on a GPU."""
    if request.param:
        set_asynchronous(monkeypatch)
    return bool(request.param)


@pytest.mark.usefixtures("asynchronous")
def test_a_nonfinite_loss_stops_the_run_and_saves_the_step_for_replay(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 2)
    with pytest.raises(RmrkdError, match=r"loss `ce` is nan.* at iteration 3, on .*\.png, .*\.png;") as failure:
        run(tiny, tmp_path)
    assert failure.value.exit_code == 1
    assert "--skip-nonfinite" in failure.value.hint
    assert read_checkpoint(tmp_path / "baseline" / "last.pth").rest["iteration"] == 2
    replay = torch.load(tmp_path / "baseline" / "nonfinite" / "iter_3-rank0.pth", weights_only=True)
    assert replay["images"][0].isnan().sum() == 1
    assert replay["labels"][0].shape == (2, 1, 32, 32)
    assert len(replay["files"]) == 2
    assert all(Path(file).is_file() for file in replay["files"])
    assert "student.backbone.layer1.0.conv1.weight" in replay["state_dict"]


def test_a_run_resumes_before_a_nonfinite_loss(
    tiny: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        poison(patched, 2)
        with pytest.raises(RmrkdError):
            run(tiny, tmp_path)
    run(tiny, tmp_path, resume=True)
    assert_same_result(tmp_path, reference)


@pytest.mark.usefixtures("asynchronous")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_skipped_step_changes_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], accumulate: int
) -> None:
    poison(monkeypatch, 2)
    overrides = ("schedule.skip_nonfinite=true", f"schedule.accumulate={accumulate}", "schedule.keep=9")
    record = run(tiny, tmp_path, *overrides)[0]
    assert record["training"]["skipped_steps"] == 1
    before, after, end = (
        read_checkpoint(tmp_path / "baseline" / f"iter_{iteration}.pth") for iteration in (2, 3, 4)
    )  # fmt: skip
    assert all(torch.equal(before.state[key], after.state[key]) for key in before.state)
    assert all(value.isfinite().all() for value in end.state.values())
    assert any(not torch.equal(end.state[key], after.state[key]) for key in end.state)
    lines = [line for line in log_of(tmp_path) if line["iter"] == 3]
    assert len(lines) == 1
    assert "loss `ce` is nan" in lines[0]["skipped"]
    assert "is skipped" in capfd.readouterr().err


@pytest.mark.usefixtures("asynchronous")
def test_a_run_that_only_skips_steps_stops(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, *range(20))
    with pytest.raises(RmrkdError, match="10 steps in a row were skipped"):
        run(tiny, tmp_path, "schedule.skip_nonfinite=true", "schedule.iters=20", "schedule.eval_interval=20")


@pytest.mark.usefixtures("asynchronous")
def test_a_nonfinite_gradient_of_finite_losses_stops_the_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = Distiller.total
    monkeypatch.setattr(Distiller, "total", lambda self, named: total(self, named) * 1e38)
    with pytest.raises(RmrkdError, match=r"the gradient norm is (inf|nan), every loss is finite at iteration 1"):
        run(tiny, tmp_path)


def test_training_does_not_change_the_teacher(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its parameters nor its buffers, over steps and validations."""
    preset = load_preset(str(tiny), overrides=["role=teacher", "schedule.iters=1"])
    train(preset, tmp_path, "cpu", Cluster())
    train_loop, snapshots = trainer.Trainer.train, []

    def record(self: trainer.Trainer, stop: StopRequest) -> object:
        def snapshot() -> list[torch.Tensor]:
            teacher = self.model.teacher
            return [tensor.clone() for tensor in (*teacher.parameters(), *teacher.buffers())]

        snapshots.append(snapshot())
        counts = train_loop(self, stop)
        snapshots.append(snapshot())
        return counts

    monkeypatch.setattr(trainer.Trainer, "train", record)
    run(tiny, tmp_path, "role=distill", f"teacher.checkpoint={{path: {tmp_path}/teacher/student.pth}}")
    before, after = snapshots
    assert before
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_replaced_teacher_file_is_rejected(tiny: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.pth"
    overrides = ("role=distill", f"teacher.checkpoint={{path: {teacher}}}")
    for seed in (0, 1):
        preset = load_preset(str(tiny), overrides=["role=teacher", "schedule.iters=1", f"seed={seed}"])
        train(preset, tmp_path / str(seed), "cpu", Cluster())
    shutil.copy(tmp_path / "0" / "teacher" / "student.pth", teacher)
    run(tiny, tmp_path, *overrides)
    (tmp_path / "distill" / "student.pth").unlink()
    shutil.copy(tmp_path / "1" / "teacher" / "student.pth", teacher)
    with pytest.raises(RmrkdError, match="was distilled from a teacher with SHA-256"):
        run(tiny, tmp_path, *overrides, resume=True)


@pytest.fixture
def unfinished(tiny: Path, tmp_path: Path) -> Callable[..., list[dict]]:
    """Return a function that resumes a run with other settings; it had batch size 4 and stopped after step 3."""
    run(tiny, tmp_path / "work", "schedule.batch_size=4")
    for name in ("student.pth", "result.json", "iter_4.pth", "last.pth", "best.pth"):
        (tmp_path / "work" / "baseline" / name).unlink()

    def resume(*overrides: str, force: bool = False) -> list[dict]:
        preset = load_preset(str(tiny), overrides=[*SCHEDULE, "schedule.batch_size=4", *overrides])
        return train(preset, tmp_path / "work", "cpu", Cluster(), resume=True, force=force)

    return resume


def test_another_batch_size_is_rejected_with_both_numbers(unfinished: Callable[..., list[dict]]) -> None:
    with pytest.raises(RmrkdError, match=r"schedule\.batch_size: 4 in the run, 2 now") as failure:
        unfinished("schedule.batch_size=2")
    assert "--force" in failure.value.hint


def test_force_resumes_and_prints_what_changes(
    unfinished: Callable[..., list[dict]], capfd: pytest.CaptureFixture[str]
) -> None:
    record = unfinished("schedule.batch_size=2", "schedule.accumulate=2", force=True)[0]
    err = capfd.readouterr().err
    assert "from iteration 3 on 1 worker(s) x 2 images x 2 pass(es), before 1 worker(s) x 4 images x 1 pass(es)" in err
    assert "the same 4 images" in err
    change = {"iteration": 3, "batch_size": [4, 2], "accumulate": [1, 2]}
    assert record["training"]["changes"] == [change]


def test_force_prints_that_steps_see_fewer_images(
    unfinished: Callable[..., list[dict]], capfd: pytest.CaptureFixture[str]
) -> None:
    unfinished("schedule.batch_size=3", force=True)
    assert "a step sees 3 images instead of 4" in capfd.readouterr().err


def test_force_allows_no_other_change(unfinished: Callable[..., list[dict]]) -> None:
    with pytest.raises(RmrkdError, match=r"schedule\.lr"):
        unfinished("schedule.lr=0.5", force=True)


def test_missing_lines_of_the_log_are_reported(
    unfinished: Callable[..., list[dict]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "work" / "baseline" / "log.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    unfinished()
    assert "has lost 3 of 4 lines" in capfd.readouterr().err


def test_a_killed_loader_process_is_named(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backward = TrainStep.backward

    def killing(self: TrainStep, batches: list[Batch], step: int) -> dict:
        for child in multiprocessing.active_children():
            child.kill()
        return backward(self, batches, step)

    monkeypatch.setattr(TrainStep, "backward", killing)
    long = [f"schedule.{name}=40" for name in ("iters", "eval_interval", "checkpoint_interval")]
    with pytest.raises(WorkerLostError, match="a loader process was killed") as failure:
        run(tiny, tmp_path, "schedule.workers=1", *long)
    assert failure.value.exit_code == 1
    assert "--workers" in failure.value.hint


def test_a_closed_terminal_stops_the_run_with_its_state_saved(tiny: Path, tmp_path: Path) -> None:
    """SIGHUP is a request to stop, and output that cannot be printed is no error."""
    overrides = [part for text in (*SCHEDULE[:1], "schedule.iters=4000") for part in ("--set", text)]
    command = ["train", "--preset", str(tiny), "--device", "cpu", *overrides]
    command += ["--set", "schedule.eval_interval=4000", "--work-dir", str(tmp_path)]
    terminal, inner = os.openpty()
    process = start_in_terminal(command, os.ttyname(inner))
    log = tmp_path / "baseline" / "log.jsonl"
    while not (log.is_file() and len(log.read_bytes().splitlines()) > 2):
        assert process.is_alive()
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 4096)
    os.close(terminal)
    process.join(60)
    os.close(inner)
    assert process.exitcode == 128 + signal.SIGHUP
    assert read_checkpoint(tmp_path / "baseline" / "last.pth").rest["iteration"] > 2


def test_two_commands_do_not_train_in_one_directory(tiny: Path, tmp_path: Path) -> None:
    """A run locks its directory until its process ends, also when it is killed."""
    context = server()
    locked = context.Event()
    other = context.Process(target=lock_directory, args=(tmp_path / "baseline", locked), daemon=True)
    other.start()
    assert locked.wait(60)
    with pytest.raises(RmrkdError, match=f"is in use by process {other.pid} on"):
        run(tiny, tmp_path)
    other.kill()
    other.join()
    run(tiny, tmp_path)


def lock_directory(folder: Path, locked: Event) -> None:
    """Keep a run directory locked until this process is killed."""
    with RunDir(folder).lock():
        locked.set()
        time.sleep(600)


def test_students_must_be_trained_like_the_finished_baseline(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def all_roles(*overrides: str, **options: bool) -> list[dict]:
        preset = load_preset(str(tiny), overrides=["role=all", "schedule.iters=1", *overrides])
        return train(preset, tmp_path, "cpu", Cluster(), **options)

    all_roles()
    (tmp_path / "distill" / "result.json").unlink()
    result = tmp_path / "baseline" / "result.json"
    result.write_text(result.read_text().replace('"workers": 1', '"workers": 2'))
    with pytest.raises(
        RmrkdError, match=r"baseline was trained by 2 worker\(s\) x 2 images.*would be trained by 1 worker"
    ):
        all_roles(resume=True)
    before = (tmp_path / "baseline" / "config.yaml").read_text()
    all_roles(resume=True, force=True)
    assert "not comparable" in capfd.readouterr().err
    assert (tmp_path / "baseline" / "config.yaml").read_text() == before


def fp16_step(tiny: Path, clip: float | None) -> TrainStep:
    schedule = Schedule(amp="fp16", clip_grad=clip, skip_nonfinite=True)
    network = build_network(network_config(load_preset(str(tiny)).student, 11), device="cpu")
    model = Distiller(network).to_device("cpu")
    return TrainStep(model, model, schedule, torch.device("cpu"))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_skipped_step_in_fp16_changes_nothing(tiny: Path, clip: float | None) -> None:
    step = fp16_step(tiny, clip)
    batch = Batch(torch.randn(2, 3, 48, 48), torch.randint(0, 11, (2, 1, 48, 48)), [])
    before = {key: value.clone() for key, value in step.model.state_dict().items()}
    for _ in range(2):
        step.backward([batch], 0)
        assert step.clip_gradients() is None
        assert step.part_gradient_norms() == {}
        step.rollback()
    assert all(torch.equal(value, before[key]) for key, value in step.model.state_dict().items())
    step.backward([batch], 0)
    step.clip_gradients()
    assert step.update_weights()
    assert any(not torch.equal(value, before[key]) for key, value in step.model.state_dict().items())


@pytest.mark.usefixtures("asynchronous")
def test_gradients_that_overflow_fp16_in_every_step_stop_the_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = Distiller.total
    monkeypatch.setattr(Distiller, "total", lambda self, named: total(self, named) * 1e36)
    with pytest.raises(RmrkdError, match=r"overflowed in fp16 for 26 steps in a row, up to iteration 26") as failure:
        run(tiny, tmp_path, "schedule.amp=fp16", "schedule.iters=40", "schedule.eval_interval=40")
    assert "--amp bf16" in failure.value.hint
