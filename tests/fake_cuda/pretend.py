"""Change torch in this process so that fake tensors on `cuda` can train."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from tests.fake_cuda.libraries import COUNT

_DEVICES = 127  # c10 keeps the count in a signed byte


def pretend_cuda() -> None:
    """Let autograd, optimizers and gradient scalers treat fake CUDA tensors as tensors of a GPU."""
    cuda: Any = torch.cuda
    torch._C._ensureCUDADeviceGuardSet()
    ctypes.c_int.in_dll(ctypes.CDLL(None), COUNT).value = _DEVICES
    torch.autograd.set_multithreading_enabled(False).__enter__()  # one Python stack, so that sites are found
    cuda.is_available = lambda: False  # FakeTensorMode would create a real context
    cuda._lazy_init = lambda: None
    cuda.is_bf16_supported = lambda *_, **__: True
    cuda.current_device = lambda: 0
    importlib.import_module("torch.cuda.amp.common").amp_definitely_not_available = lambda: False
    for optimizer in ("sgd", "adam"):  # a Parameter of a GPU gets the foreach form
        importlib.import_module(f"torch.optim.{optimizer}")._default_to_fused_or_foreach = lambda *_, **__: (
            False,
            True,
        )
    for kernel in ("flash", "mem_efficient", "cudnn"):  # choosing them asks the driver
        getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(False)
    cuda.get_device_name = lambda *_: "a pretended GPU"
    cuda.device = lambda *_: nullcontext()
    FakeTensor.numpy = _numpy  # type: ignore[method-assign, assignment]
    _replace_copies()
    _skip_initialization()


def _numpy(self: Tensor, *, force: bool = False) -> np.ndarray[Any, Any]:
    """Return zeros; as torch's own, refuse a tensor on a GPU."""
    if self.device.type != "cpu":
        raise TypeError(f"can't convert a {self.device} tensor to numpy")
    return np.zeros(tuple(self.shape), str(self.dtype).removeprefix("torch."))


def _skip_initialization() -> None:
    """Leave weights as they are: fake ones have no values, and mmcv takes most of the time to set them."""
    from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable

    make_mmseg_importable()
    from mmcv.runner import BaseModule

    BaseModule.init_weights = lambda _: None


def _replace_copies() -> None:
    """Replace torch's ways to copy and move modules, which set storages or swap tensors; fake tensors refuse both."""
    original: Callable[[Tensor, dict[int, Any]], Tensor] = Tensor.__deepcopy__

    def deepcopy(self: Tensor, memo: dict[int, Any]) -> Tensor:
        if not isinstance(self, FakeTensor):
            return original(self, memo)
        if id(self) not in memo:
            new = self.detach().clone(memory_format=torch.preserve_format)
            is_parameter = isinstance(self, nn.Parameter)
            memo[id(self)] = nn.Parameter(new, self.requires_grad) if is_parameter else new
        copied: Tensor = memo[id(self)]
        return copied

    Tensor.__deepcopy__ = deepcopy  # type: ignore[method-assign, assignment]
    nn.Module._apply = _apply  # type: ignore[method-assign, assignment]


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    for module in self.children() if recurse else ():
        module._apply(fn)
    with torch.no_grad():
        for key, parameter in self._parameters.items():
            if parameter is not None and (new := fn(parameter)) is not parameter:
                self._parameters[key] = nn.Parameter(new.detach(), parameter.requires_grad)
        for key, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[key] = fn(buffer)
    return self
