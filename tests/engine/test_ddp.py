from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from rmrkd_cli.commands.train import train
from rmrkd_cli.engine.cluster import Cluster
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets import load_preset
from tests.cli import rmrkd
from tests.engine import gradients

ROOT = Path(__file__).parents[2]


def test_two_workers_of_two_images_have_the_gradients_of_one_with_four(tiny: Path, tmp_path: Path) -> None:
    gradients.main(str(tiny), str(tmp_path / "one.pt"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*launcher, "-m", "tests.engine.gradients", str(tiny), str(tmp_path / "two.pt")],
        check=True, cwd=ROOT, capture_output=True,
    )  # fmt: skip
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert one.keys() == two.keys()
    for name in one:
        assert one[name] is not None, f"{name} is never used"
        difference = (one[name].double() - two[name].double()).norm() / one[name].double().norm().clamp_min(1e-12)
        assert difference < 1e-5, name


def test_training_and_evaluation_by_two_workers(tiny: Path, tmp_path: Path) -> None:
    preset = load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=2"])
    record = train(preset, tmp_path, "cpu", Cluster(workers=2))[0]
    assert record["training"]["workers"] == 2
    student = tmp_path / "baseline" / "student.pth"
    outcome = rmrkd("eval", student, "--gpus", 2, "--device", "cpu", "--max-images", 3, "--json", "-")
    alone = rmrkd("eval", student, "--device", "cpu", "--max-images", 3, "--json", "-")
    assert json.loads(outcome.stdout)["matrix"] == json.loads(alone.stdout)["matrix"]
    student.unlink()
    with pytest.raises(RmrkdError, match=r"trained by 2 worker\(s\) of 2 images, and is resumed by 1 of 2") as refused:
        train(preset, tmp_path, "cpu", Cluster(), resume=True)
    assert "--force" in refused.value.hint


def killed_once(run_dir: Path, after: int) -> threading.Thread:
    """Ends one of this process's workers, in a thread, when that many lines are logged."""

    def kill() -> None:
        log = run_dir / "log.jsonl"
        while not (log.is_file() and len(log.read_bytes().splitlines()) >= after):
            time.sleep(0.005)
        os.kill(workers_of_this_process()[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def workers_of_this_process() -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "engine.worker"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_three_workers_end_alike_though_one_was_killed(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Three, since with two the order of a sum cannot matter; with three it must not depend on where a run began."""
    overrides = ["role=baseline", "schedule.iters=24", "schedule.eval_interval=12", "schedule.checkpoint_interval=5"]
    preset = load_preset(str(tiny), overrides=overrides)
    ends = []
    for name in ("whole", "killed"):
        run_dir = tmp_path / name / "baseline"
        killing = killed_once(run_dir, 9) if name == "killed" else None
        train(preset, tmp_path / name, "cpu", Cluster(workers=3))
        if killing is not None:
            killing.join(timeout=1)
            assert not killing.is_alive()
        lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
        losses = [(line["iter"], line["losses"]) for line in lines if "losses" in line]
        ends.append((losses, torch.load(run_dir / "student.pth", weights_only=True)["state_dict"]))
    told = capfd.readouterr().err
    assert "a worker was lost, and all are started again (1 of at most 3 times)" in told
    assert "Traceback" not in told
    assert [number for number, _ in ends[0][0]] == list(range(1, 25))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(ends[0][1][key], ends[1][1][key]) for key in ends[0][1])


def test_a_killed_worker_is_named_where_none_is_started_again(tiny: Path, tmp_path: Path) -> None:
    preset = load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=400", "schedule.eval_interval=400"])
    killed_once(tmp_path / "baseline", 2)
    with pytest.raises(RmrkdError, match="worker 1 was ended by signal 9; killed by hand") as failure:
        train(preset, tmp_path, "cpu", Cluster(workers=2, max_restarts=0))
    assert failure.value.exit_code == 1
    assert workers_of_this_process() == []


@pytest.mark.parametrize("loaders", [0, 1])
def test_an_error_on_one_worker_is_told_once_in_its_own_words(
    tiny: Path, camvid: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], loaders: int
) -> None:
    """One label file is damaged, so one worker meets it while the other waits for it in the gradients' sum."""
    broken = shutil.copytree(camvid, tmp_path / "broken")
    (broken / "trainannot" / "2.png").write_bytes(b"no picture")
    overrides = ["role=baseline", f"data.root={broken}", f"schedule.workers={loaders}"]
    preset = load_preset(str(tiny), overrides=overrides)
    with pytest.raises(RmrkdError, match=r"2\.png` cannot be read as a label map") as failure:
        train(preset, tmp_path / "work", "cpu", Cluster(workers=2))
    assert failure.value.exit_code == 1
    assert "Traceback" not in failure.value.message
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_in_a_loader_process_keeps_its_words(tiny: Path, camvid: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(camvid, tmp_path / "broken")
    Image.new("L", (96, 64), 77).save(broken / "valannot" / "1.png")
    preset = load_preset(str(tiny), overrides=["role=baseline", f"data.root={broken}", "schedule.workers=1"])
    with pytest.raises(RmrkdError, match=r"1\.png` holds the label 77") as failure:
        train(preset, tmp_path / "work", "cpu", Cluster())
    assert "ignore_labels" in failure.value.hint
    assert "Traceback" not in failure.value.message


def test_two_machines_share_a_directory_that_the_first_claims(tiny: Path, tmp_path: Path) -> None:
    """Two launchers on loopback stand for two machines."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "rmrkd_cli", "train", "--preset", str(tiny), "--role", "baseline"]
    command += ["--work-dir", str(tmp_path), "--device", "cpu", "--max-iters", "2", "--nodes", "2"]
    command += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--node-rank"]
    nodes = [
        subprocess.Popen([*command, str(rank)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    told = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], told
    assert "baseline" in told[0][0]
    assert told[1][0] == ""
    assert json.loads((tmp_path / "baseline" / "result.json").read_text())["training"]["workers"] == 2
