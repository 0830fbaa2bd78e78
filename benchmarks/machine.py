"""The machine that figures were taken on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def choose_device(wanted: str) -> str:
    """ "cuda" where "auto" finds a GPU."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_device(device: str) -> None:
    """Full float32 on GPUs: TF32's rounding is larger than what the answers may differ by."""
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def describe(device: str) -> dict[str, str]:
    """What RESULTS.md begins with; figures of two machines belong to one table only where all of it agrees."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "RAM": f"{memory / 2**30:.0f} GiB",
        "GPU": gpu,
        "measured on": device + (", float32 without TF32" if device == "cuda" else ", float32"),
        "software": f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()}",
    }


def moment() -> str:
    """Date and commit, marked where the package has changes that are in no commit."""
    commit = _git("rev-parse", "--short", "HEAD") or "no git"
    changed = " with changes" if _git("status", "--porcelain", "--", "rmrkd_cli", "presets") else ""
    return f"{date.today().isoformat()}, commit {commit}{changed}"


def _git(*arguments: str) -> str:
    try:
        told = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return told.stdout.strip()


def _cpu_model() -> str:
    """Linux tells the model in a file; elsewhere Python's guess must do."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
