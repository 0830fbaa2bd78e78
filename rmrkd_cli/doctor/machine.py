"""Check the processor, the memory and the GPUs."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmrkd_cli.doctor.check import Check, describe_error
from rmrkd_cli.installation.requirements import install_command
from rmrkd_cli.storage.resources import available_memory, usable_cores

_MIN_MEMORY = 4 << 30  # bytes
_MIN_SHARED_MEMORY = 1 << 30
_SHARED_MEMORY = Path("/dev/shm")
_CPU_INFO = Path("/proc/cpuinfo")
_DRIVER_VERSION = Path("/proc/driver/nvidia/version")


def machine_checks() -> Iterator[Check]:
    yield _check_cpu()
    yield _check_memory()
    yield _check_shared_memory()


def gpu_checks() -> Iterator[Check]:
    """Check each GPU, or find out why torch sees none; then the backends of distributed training."""
    torch: Any = importlib.import_module("torch")
    if torch.cuda.is_available():
        yield _check_driver(torch)
        for index in range(torch.cuda.device_count()):
            yield _check_gpu(torch, index)
    else:
        yield _check_no_gpu(torch)
    yield _check_distributed(torch)


def _check_cpu() -> Check:
    name = platform.processor() or platform.machine()
    if _CPU_INFO.is_file():
        models = [line for line in _CPU_INFO.read_text(errors="replace").splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return Check("CPU", "ok", f"{name}, {usable_cores()} of {os.cpu_count()} cores for this process")


def _check_memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        free = available_memory()
    except OSError:  # not Linux
        return Check("memory", "ok", f"{total / 2**30:.1f} GiB")
    found = f"{free / 2**30:.1f} GiB available of {total / 2**30:.1f}"
    if free < _MIN_MEMORY:
        fix = "rmrkd train --workers 0 --batch-size 2, or end other programs"
        return Check("memory", "warning", found, f"{_MIN_MEMORY >> 30} GiB", fix)
    return Check("memory", "ok", found)


def _check_shared_memory() -> Check:
    """Check the memory through which data loader workers send images."""
    try:
        total, _, free = shutil.disk_usage(_SHARED_MEMORY)
    except OSError as error:
        found = f"{_SHARED_MEMORY}: {error.strerror}"
        return Check("shared memory", "warning", found, "1 GiB", "rmrkd train --workers 0")
    found = f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} in {_SHARED_MEMORY}"
    if free < _MIN_SHARED_MEMORY:
        fix = "docker run --shm-size=8g, or rmrkd train --workers 0"
        return Check("shared memory", "warning", found, "1 GiB for data loader workers", fix)
    return Check("shared memory", "ok", found)


def _check_driver(torch: Any) -> Check:
    get_version = getattr(torch._C, "_cuda_getDriverVersion", None)
    number = get_version() if get_version is not None else 0
    driver = f", driver for CUDA up to {number // 1000}.{number % 1000 // 10}" if number else ""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    return Check("CUDA", "ok", f"torch built with {built}{driver}")


def _check_gpu(torch: Any, index: int) -> Check:
    name = f"GPU {index}"
    try:
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        with torch.cuda.device(index):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    except Exception as error:
        fix = "nvidia-smi, or rmrkd train --device cpu"
        return Check(name, "error", describe_error(error), "a GPU that responds", fix)
    capability = f"{properties.major}.{properties.minor}"
    found = f"{properties.name}, {free / 2**30:.1f} GiB free of {total / 2**30:.1f}, compute capability {capability}"
    found += ", bf16" if bf16 else ", no bf16 (--amp fp16 or off)"
    built = torch.cuda.get_arch_list()
    if built and not _is_built_for(properties.major, properties.minor, built):
        fix = f"{install_command('torch', 'torchvision')} of a build for it (pytorch.org/get-started), or --device cpu"
        return Check(name, "error", found, f"one of those torch was built for: {' '.join(built)}", fix)
    return Check(name, "ok", found)


def _is_built_for(major: int, minor: int, built: list[str]) -> bool:
    """Return whether code for one of these architectures runs on a compute capability.

    `sm_` runs on the same major version from its minor version on, `compute_` on all later versions.
    """
    for entry in built:
        kind, _, digits = entry.partition("_")
        digits = digits.rstrip("af")
        if not digits.isdecimal():
            return True  # ROCm's names
        version = (int(digits[:-1]), int(digits[-1]))
        if (kind == "compute" and version <= (major, minor)) or (version[0] == major and version[1] <= minor):
            return True
    return False


def _check_no_gpu(torch: Any) -> Check:
    present = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if present and visible is not None and visible.strip() in ("", "-1"):
        found = f"hidden by CUDA_VISIBLE_DEVICES={visible!r}"
        return Check("GPU", "warning", found, fix="unset CUDA_VISIBLE_DEVICES")
    if not present:
        return Check("GPU", "warning", "none found; rmrkd runs on the CPU")
    expected = "torch can use the GPU"
    if torch.version.cuda is None:
        fix = f"{install_command('torch', 'torchvision', options='--force-reinstall')} (pytorch.org/get-started)"
        return Check("GPU", "error", f"torch {torch.__version__} is built for CPUs only", expected, fix)
    driver = f"; {_DRIVER_VERSION.read_text(errors='replace').splitlines()[0]}" if _DRIVER_VERSION.is_file() else ""
    fix = f"a driver for CUDA {torch.version.cuda} (nvidia-smi shows yours), or torch for an older CUDA"
    return Check("GPU", "error", _gpu_error(torch) + driver, expected, f"{fix}, or rmrkd train --device cpu")


def _gpu_error(torch: Any) -> str:
    try:
        torch.cuda.init()
    except Exception as error:
        return describe_error(error)
    return "torch finds no GPU"


def _check_distributed(torch: Any) -> Check:
    backends = []
    if torch.distributed.is_available():
        if torch.cuda.is_available() and torch.distributed.is_nccl_available():
            backends.append("NCCL " + ".".join(map(str, torch.cuda.nccl.version())))
        backends += ["gloo"] * torch.distributed.is_gloo_available()
    needed = ["gloo"] + ["NCCL"] * torch.cuda.is_available()
    if len(backends) < len(needed):
        fix = install_command("torch", options="--force-reinstall")
        found = ", ".join(backends) or "no backend"
        return Check("distributed training", "error", found, " and ".join(needed), fix)
    return Check("distributed training", "ok", ", ".join(backends))
