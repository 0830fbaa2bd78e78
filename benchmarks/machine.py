"""The machine on which the benchmarks run."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def choose_device(wanted: str) -> str:
    """Resolve "auto" to "cuda" if there is a GPU, else to "cpu"."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_device(device: str) -> None:
    """Disable TF32 on GPUs: its rounding is larger than the tolerances of the benchmarks."""
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def describe_machine(device: str) -> dict[str, str]:
    """Return the description at the top of RESULTS.md; results are comparable only if it is equal."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "RAM": f"{memory / 2**30:.0f} GiB",
        "GPU": gpu,
        "measured on": device + (", float32 without TF32" if device == "cuda" else ", float32"),
        "software": f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()}",
    }


def date_and_commit() -> str:
    """Return date and commit, and whether the package has uncommitted changes."""
    commit = _git("rev-parse", "--short", "HEAD") or "no git"
    changed = " with changes" if _git("status", "--porcelain", "--", "rmrkd_cli", "presets") else ""
    return f"{date.today().isoformat()}, commit {commit}{changed}"


def _git(*arguments: str) -> str:
    try:
        process = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return process.stdout.strip()


def _cpu_model() -> str:
    """Return the CPU model from /proc/cpuinfo, or what Python knows about it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
