"""Two small C libraries with which torch believes in a CUDA driver.

The autograd engine asks `c10::cuda::device_count()` and `libcuda.so.1` about contexts, also when all tensors are fake.
The first library answers the count, once `fake_device_count` is set. The second has the driver's functions, which do
nothing. Both are preloaded; no file of torch changes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

COUNT = "fake_device_count"  # a C int: 0 until torch's own device guard is in place

_DEVICE_COUNT = f"""
int {COUNT} = 0;
signed char _ZN3c104cuda12device_countEv(void) {{ return {COUNT}; }}
"""
_CONTEXT_STATE = """
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 0; return 0; }
"""
# Symbols of the driver that torch links to.
_DRIVER = """
cuCtxGetCurrent cuCtxSetCurrent cuDeviceGet cuDeviceGetAttribute cuDevicePrimaryCtxRetain cuFuncGetAttribute
cuFuncSetAttribute cuFuncSetCacheConfig cuGetErrorString cuLaunchCooperativeKernel cuLaunchKernel cuLinkAddData_v2
cuLinkComplete cuLinkCreate_v2 cuModuleGetFunction cuModuleLoad cuModuleLoadData cuModuleLoadDataEx cuModuleUnload
cuOccupancyMaxActiveBlocksPerMultiprocessor cuPointerGetAttribute cuTensorMapEncodeTiled
"""


def missing_requirement() -> str | None:
    """Return what this machine has not, or None if steps on a pretended GPU can run here."""
    import torch

    if shutil.which("gcc") is None:
        return "gcc is missing"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return None


def compile_libraries(folder: Path) -> dict[str, str]:
    """Compile both libraries into a folder, and return the environment of a process that preloads them."""
    driver = _CONTEXT_STATE + "".join(f"int {name}() {{ return 0; }}\n" for name in _DRIVER.split())
    count = _compile(folder / "device_count.so", _DEVICE_COUNT)
    _compile(folder / "libcuda.so.1", driver, "-Wl,-soname,libcuda.so.1")
    return {**os.environ, "LD_PRELOAD": str(count), "LD_LIBRARY_PATH": str(folder)}


def _compile(target: Path, source: str, *options: str) -> Path:
    command = ["gcc", "-shared", "-fPIC", *options, "-x", "c", "-", "-o", str(target)]
    subprocess.run(command, input=source, text=True, check=True, capture_output=True)
    return target
