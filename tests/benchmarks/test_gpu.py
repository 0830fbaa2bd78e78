"""`python -m benchmarks.gpu`: all parts run on a CPU, time limits hold, and GPU.md gets no figures of a CPU."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_parts import PARTS
from benchmarks.gpu_parts.common import FP32, Options
from benchmarks.gpu_parts.page import PartResult, write_page
from rmrkd_cli.distributed.watchdog import is_running

GPU = Options("cuda", False, Path("folder"))


@pytest.mark.slow
def test_all_parts_run_at_toy_size_on_a_cpu(tmp_path: Path) -> None:
    before = gpu.PAGE.read_bytes() if gpu.PAGE.exists() else None
    output = tmp_path / "page.md"
    try:
        given = ["--device", "cpu", "--toy", "--output", str(output), "--folder", str(tmp_path / "files")]
        code = gpu.main(given)
    finally:
        FP32.apply()
        torch.set_grad_enabled(True)
    page = output.read_text(encoding="utf-8")
    assert code == 0, page
    assert page.startswith("# A check that all parts run: no measurement of a GPU")
    assert page.count("| finished |") == len(PARTS) or page.count(" finished | ") == len(PARTS)
    assert "kill -9 and --resume, killed after iteration" in page
    assert page.count("tensors are equal bit for bit") == 2
    assert "**no**" not in page
    assert (gpu.PAGE.read_bytes() if gpu.PAGE.exists() else None) == before


def test_a_part_is_stopped_at_its_limit_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "child"
    child = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    started = time.monotonic()
    assert gpu._wait([sys.executable, "-c", script], 5.0) == "stopped at its limit of 5 s"
    assert time.monotonic() - started < 20
    pid = int(file.read_text())
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def test_a_part_that_fails_is_reported_with_its_error() -> None:
    assert gpu._wait([sys.executable, "-c", "raise ValueError('no memory')"], 30) == "failed: ValueError: no memory"
    assert gpu._wait([sys.executable, "-c", f"import os; os.kill(os.getpid(), {9})"], 30) == "failed: exit code -9"


def test_the_limits_of_the_parts_fit_into_eight_minutes() -> None:
    assert sum(part.seconds for part in PARTS) <= gpu.SECONDS == 480


@pytest.mark.parametrize("more", [[], ["--output", str(gpu.PAGE)], ["--output", os.path.relpath(gpu.PAGE)]])
@pytest.mark.parametrize("device", [["--device", "cpu"], ["--device", "cuda", "--toy"]])
def test_gpu_md_gets_figures_of_full_sizes_on_a_gpu_only(
    device: list[str], more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        gpu.main([*device, *more])
    assert "GPU.md is for full sizes on a GPU" in capsys.readouterr().err


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--parts", "losses,all"])
    assert "unknown part all" in capsys.readouterr().err


def test_the_page_shows_what_was_measured_before_a_part_ended() -> None:
    base = {"preset": "demo", "method": None}
    losses = [
        base | {"device": "cpu", "precision": "fp32", "losses": {"ce": 2.0}, "gradient norm": 4.0},
        base | {"device": "cuda", "precision": "tf32", "losses": {"ce": 2.002}, "gradient norm": 4.0},
        base | {"preset": "camvid", "device": "cuda", "precision": "fp32", "losses": {"ce": 1}, "gradient norm": 4},
    ]
    trained = {"preset": "demo", "precision": "bf16", "batch": [2, 3, 96, 96], "waits": 1, "finite": True}
    trained |= {"first ce": 2.0, "last ce": 1.0, "first total": 3.0, "last total": 2.0}
    trained |= {"steps/s": 50.0, "peak bytes": 3 << 30}
    results = [
        PartResult("losses", "stopped at its limit of 110 s", 110.2, losses),
        PartResult("training", "finished", 9, [trained, {"preset": "big", "precision": "tf32", "error": "no memory"}]),
        PartResult("released", "finished", 1, [
            {"what": "step", "side": "rmrkd", "precision": "tf32", "seconds": 0.05, "peak bytes": 1 << 30},
            {"what": "step", "side": "plain", "precision": "tf32", "error": "out of memory"},
        ]),
        PartResult("runs", "finished", 1, [
            {"what": "kill", "killed after iteration": 10, "tensors": 5, "different": 0, "largest difference": 0.0},
            {"what": "group", "tensors": 5, "different": 2, "largest difference": 1e-3},
            {"what": "--amp fp16", "error": "error: no GPU"},
        ]),
        PartResult("loader", "finished", 1, [{"processes": 2, "cores": 16, "images/s": 31.0}]),
        PartResult("ranks", "not started: no time was left", 0, []),
    ]  # fmt: skip
    page = write_page({"GPU": "NVIDIA H200"}, results, GPU)
    lines = {" ".join(line.split()) for line in page.splitlines()}
    assert page.startswith("# One GPU\n\nWritten by `uv run python -m benchmarks.gpu`.\n\n- GPU: NVIDIA H200")
    assert {
        "| losses | stopped at its limit of 110 s | 110 |",
        "| demo | ce | 2 | 1.0e-03 | – |",
        "| demo | bf16 | 2 → 1 | 3 → 2 | 50.0 | 3.00 GiB | 1 | yes |",
        "| step, tf32 | 50.0 ms (20.0/s) | out of memory | – | 1.00 GiB | – |",
        "| kill, killed after iteration 10 | all 5 tensors are equal bit for bit |",
        "| group | 2 of 5 tensors differ, by 0.001 at most |",
        "| --amp fp16 | error: no GPU |",
        "| 2 | 31.0 | of 16 cores |",
        "Images a second that the steps above take: demo bf16 100.",
        "No figures: not started: no time was left.",
    } <= lines, page
