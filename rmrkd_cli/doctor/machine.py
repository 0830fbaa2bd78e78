"""Processor, memory, GPUs, and the limits that the system sets."""

from __future__ import annotations

import importlib
import os
import platform
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmrkd_cli.doctor.check import Check, first_line
from rmrkd_cli.installation.requirements import install_command
from rmrkd_cli.storage.resources import allowed_cores, available_memory

_LITTLE_MEMORY = 4 << 30  # bytes
_LITTLE_SHARED = 1 << 30
_OWN_LOAD = 1.5  # that this command can add
_FEW_FILES = 1024
_SHARED = Path("/dev/shm")
_CPUS = Path("/proc/cpuinfo")
_DRIVER = Path("/proc/driver/nvidia/version")


def machine_checks() -> Iterator[Check]:
    yield _processor()
    yield _memory()
    yield _shared_memory()
    yield _open_files()
    yield _threads()


def gpu_checks() -> Iterator[Check]:
    """Each GPU, or why there is none; and what several processes need to talk to each other."""
    torch: Any = importlib.import_module("torch")
    if torch.cuda.is_available():
        yield _driver(torch)
        for index in range(torch.cuda.device_count()):
            yield _gpu(torch, index)
    else:
        yield _no_gpu(torch)
    yield _processes(torch)


def cores() -> int:
    """That this process may use: by its affinity, and by the limit of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(count, int(allowed_cores() or count)))


def _processor() -> Check:
    name = platform.processor() or platform.machine()
    if _CPUS.is_file():
        models = [line for line in _CPUS.read_text(errors="replace").splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    found = f"{name}, {cores()} of {os.cpu_count()} cores for this process"
    load = os.getloadavg()[0]
    if load > (os.cpu_count() or 1) + _OWN_LOAD:
        mend = "OMP_WAIT_POLICY=PASSIVE rmrkd train, beside other work"
        return Check("CPU", "note", f"{found}, busy: load {load:.1f}", "cores that are free", mend)
    return Check("CPU", "ok", found)


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        free = available_memory()
    except OSError:  # not Linux
        return Check("memory", "ok", f"{total / 2**30:.1f} GiB")
    found = f"{free / 2**30:.1f} GiB available of {total / 2**30:.1f}"
    if free < _LITTLE_MEMORY:
        mend = "rmrkd train --workers 0 --batch-size 2, or end other programs"
        return Check("memory", "note", found, f"{_LITTLE_MEMORY >> 30} GiB", mend)
    return Check("memory", "ok", found)


def _shared_memory() -> Check:
    """Loader processes hand over images in it."""
    try:
        total, _, free = shutil.disk_usage(_SHARED)
    except OSError as error:
        return Check("shared memory", "note", f"{_SHARED}: {error.strerror}", "1 GiB", "rmrkd train --workers 0")
    found = f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} in {_SHARED}"
    if free < _LITTLE_SHARED:
        mend = "docker run --shm-size=8g, or rmrkd train --workers 0"
        return Check("shared memory", "note", found, "1 GiB for processes that read images", mend)
    return Check("shared memory", "ok", found)


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _FEW_FILES:
        mend = f"ulimit -n {min(4096, hard) if hard > 0 else 4096}"
        if 0 < hard < _FEW_FILES:
            mend = "rmrkd train --workers 0, or a higher limit in /etc/security/limits.conf"
        return Check("open files", "note", f"at most {soft} (ulimit -n)", f"{_FEW_FILES}", mend)
    return Check("open files", "ok", f"at most {soft}" if soft >= 0 else "no limit")


def _threads() -> Check:
    value = os.environ.get("OMP_NUM_THREADS")
    if value is None:
        return Check("threads", "ok", "OMP_NUM_THREADS is not set: one thread a core")
    count = int(value) if value.isascii() and value.isdecimal() else 0
    found = f"OMP_NUM_THREADS={value}"
    if not 0 < count <= cores():
        return Check("threads", "note", found, f"1 to {cores()}", "unset OMP_NUM_THREADS")
    return Check("threads", "ok", found)


def _driver(torch: Any) -> Check:
    known = getattr(torch._C, "_cuda_getDriverVersion", None)
    number = known() if known is not None else 0
    driver = f", driver for CUDA up to {number // 1000}.{number % 1000 // 10}" if number else ""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    return Check("CUDA", "ok", f"torch built with {built}{driver}")


def _gpu(torch: Any, index: int) -> Check:
    name = f"GPU {index}"
    try:
        facts = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        with torch.cuda.device(index):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    except Exception as error:
        return Check(name, "wrong", first_line(error), "a GPU that answers", "nvidia-smi, or rmrkd train --device cpu")
    capability = f"{facts.major}.{facts.minor}"
    found = f"{facts.name}, {free / 2**30:.1f} GiB free of {total / 2**30:.1f}, compute capability {capability}"
    found += ", bf16" if bf16 else ", no bf16 (--amp fp16 or off)"
    built = torch.cuda.get_arch_list()
    if built and not _runs_on(facts.major, facts.minor, built):
        mend = f"{install_command('torch', 'torchvision')} of a build for it (pytorch.org/get-started), or --device cpu"
        return Check(name, "wrong", found, f"one of those torch was built for: {' '.join(built)}", mend)
    return Check(name, "ok", found)


def _runs_on(major: int, minor: int, built: list[str]) -> bool:
    """Machine code (`sm_`) runs on the same major version and later minor ones, `compute_` on all later ones."""
    for entry in built:
        kind, _, digits = entry.partition("_")
        digits = digits.rstrip("af")
        if not digits.isdecimal():
            return True  # ROCm's names
        made = (int(digits[:-1]), int(digits[-1]))
        if (kind == "compute" and made <= (major, minor)) or (made[0] == major and made[1] <= minor):
            return True
    return False


def _no_gpu(torch: Any) -> Check:
    present = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if present and hidden is not None and hidden.strip() in ("", "-1"):
        found = f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}"
        return Check("GPU", "note", found, mend="unset CUDA_VISIBLE_DEVICES")
    if not present:
        return Check("GPU", "note", "none found: everything runs on the CPU, at its speed")
    expected = "torch uses the GPU that is here"
    if torch.version.cuda is None:
        mend = f"{install_command('torch', 'torchvision', options='--force-reinstall')} (pytorch.org/get-started)"
        return Check("GPU", "wrong", f"torch {torch.__version__} is built for CPUs alone", expected, mend)
    driver = f"; {_DRIVER.read_text(errors='replace').splitlines()[0]}" if _DRIVER.is_file() else ""
    mend = f"nvidia-smi; a driver for CUDA {torch.version.cuda}, or a build of torch for an older one; or --device cpu"
    return Check("GPU", "wrong", _cause(torch) + driver, expected, mend)


def _cause(torch: Any) -> str:
    try:
        torch.cuda.init()
    except Exception as error:
        return first_line(error)
    return "torch finds no GPU"


def _processes(torch: Any) -> Check:
    ways = []
    if torch.distributed.is_available():
        if torch.cuda.is_available() and torch.distributed.is_nccl_available():
            ways.append("NCCL " + ".".join(map(str, torch.cuda.nccl.version())))
        ways += ["gloo"] * torch.distributed.is_gloo_available()
    needed = ["gloo"] + ["NCCL"] * torch.cuda.is_available()
    if len(ways) < len(needed):
        expected, mend = " and ".join(needed), install_command("torch", options="--force-reinstall")
        return Check("several workers", "wrong", ", ".join(ways) or "no way to talk", expected, mend)
    return Check("several workers", "ok", ", ".join(ways))
