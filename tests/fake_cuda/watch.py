"""Watch a step operation by operation: where the host waits for the GPU, and what is copied between them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tests.fake_cuda.events import FakeEvent

_SCALARS = ("_local_scalar_dense", "item", "is_nonzero", "equal")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
_BOOLEAN = (torch.bool, torch.uint8)
_OPERATIONS_ON_VIEWS = """
view _unsafe_view expand permute transpose t slice select unsqueeze squeeze detach alias split split_with_sizes
as_strided unbind diagonal lift_fresh empty new_empty empty_like empty_strided new_empty_strided unfold
_reshape_alias resize_ set_
view_as_real movedim chunk squeeze_ unsqueeze_ transpose_ t_ as_strided_ detach_ unsafe_split prim_device
"""
_NO_KERNEL = frozenset(_OPERATIONS_ON_VIEWS.split())
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_PACKAGES = ("/rmrkd_cli/", "/mmseg/", "/mmcv/", "/torch/nn/modules/")


@dataclass
class Report:
    """What a step did. Places are `file:line function`, the innermost of this package, mmseg, mmcv or torch.nn.

    Attributes:
        waits: Place → how often the host waits for the current step of the GPU.
        late_waits: The same for waits for an earlier step, which has usually ended.
        blocking_copies: Place → copies from the host that it waits for.
        kernels: Operation → how often it runs on the GPU.
    """

    waits: Counter[str] = field(default_factory=Counter)
    late_waits: Counter[str] = field(default_factory=Counter)
    blocking_copies: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)


class Watch(TorchDispatchMode):
    """Records what runs on fake CUDA tensors, and answers what depends on their values, which they have not.

    A number is 1, a flag True, and a boolean index selects a quarter of the elements. Enter it inside a FakeTensorMode.

    Attributes:
        report: Of the operations since `start`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.report = Report()
        self.recording = False

    def start(self) -> None:
        self.recording = True
        FakeEvent.on_wait = self._count_event
        FakeTensor.tolist = lambda tensor: self.to_list(tensor)  # type: ignore[method-assign, assignment]

    def to_list(self, tensor: Tensor) -> Any:
        """Return nested lists of ones: one wait, where torch's own would read element by element."""
        self._count_wait(tensor, "tolist")
        one = 1.0 if tensor.dtype.is_floating_point else 1

        def nest(shape: tuple[int, ...]) -> Any:
            return [nest(shape[1:]) for _ in range(shape[0])] if shape else one

        return nest(tuple(tensor.shape))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "aten" and func.has_kernel_for_dispatch_key(_COMPOSITE):  # seen in inference mode only
            with self:
                return func.decompose(*args, **kwargs)
        name = func._schema.name.split("::")[1]
        if name in _SCALARS:
            self._count_wait(args[0], name)
            return _one(args[0].dtype)
        if name in ("nonzero", "bincount"):
            self._count_wait(args[0], name)
            return _indices(args[0], args[0].dim()) if name == "nonzero" else _counts(func, args, kwargs)
        if name in _INDEXING and any(index is not None and index.dtype in _BOOLEAN for index in args[1]):
            self._count_wait(args[0], f"{name} with a boolean index")
            args = (args[0], _without_booleans(args[1]), *args[2:])
        if name.startswith("batch_norm_"):
            result = _sync_batch_norm(name, *args)
        elif name.startswith("_fused_"):  # an optimizer's kernel, which has no fake form either
            self.report.kernels[name] += self.recording
            return None
        elif name == "_pin_memory":
            result = args[0].clone()
        else:
            result = func(*args, **kwargs)
        self._count(name, args, kwargs, result)
        return result

    def _count(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        if not self.recording:
            return
        outputs = [each for each in tree_flatten(result)[0] if isinstance(each, Tensor)]
        if any(each.device.type == "cuda" for each in outputs) and name not in _NO_KERNEL:
            self.report.kernels[name] += 1
        if name not in ("_to_copy", "copy_"):
            return
        source, target = (args[1], args[0]) if name == "copy_" else (args[0], outputs[0])
        kinds = source.device.type, target.device.type
        if kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]):
            return
        if kinds == ("cuda", "cpu"):
            self._count_wait(source, "copy to the CPU")
        elif kinds == ("cpu", "cuda"):
            self.report.blocking_copies[f"{place()} {tuple(source.shape)}"] += 1

    def _count_wait(self, tensor: Tensor, what: str) -> None:
        if self.recording and tensor.device.type == "cuda":
            self.report.waits[f"{place()} {what}"] += 1

    def _count_event(self, of_this_step: bool) -> None:
        waits = self.report.waits if of_this_step else self.report.late_waits
        waits[f"{place()} event"] += 1


def place() -> str:
    """Return `file:line function` of the innermost frame of this package or a network library."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        for package in _PACKAGES:
            if package in name:
                file = package.strip("/") + "/" + name.rsplit(package, 1)[1]
                return f"{file}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "?"


def _one(dtype: torch.dtype) -> float | int | bool:
    return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1


def _indices(condition: Tensor, *columns: int) -> Tensor:
    return torch.zeros(max(1, condition.numel() // 4), *columns, dtype=torch.long, device=condition.device)


def _counts(func: Any, args: Any, kwargs: Any) -> Tensor:
    length = kwargs.get("minlength", args[2] if len(args) > 2 else 1)
    return torch.zeros(max(1, length), dtype=torch.long, device=args[0].device)


def _without_booleans(indices: list[Tensor | None]) -> list[Tensor | None]:
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in _BOOLEAN:
            found += [_indices(index) for _ in range(index.dim())]
        else:
            found.append(index)
    return found


def _sync_batch_norm(name: str, *args: Any) -> Any:
    """Return the outputs of SyncBN's kernels, which have no fake form."""
    like = args[1] if name == "batch_norm_gather_stats_with_counts" else args[0]
    channels = args[0].shape[1]

    def of_channels(count: int) -> tuple[Tensor, ...]:
        dtype = like.dtype if like is not args[0] else torch.float32
        return tuple(like.new_empty(channels, dtype=dtype) for _ in range(count))

    kernels: dict[str, Callable[[], Any]] = {
        "batch_norm_stats": lambda: of_channels(2),
        "batch_norm_gather_stats_with_counts": lambda: of_channels(2),
        "batch_norm_elemt": lambda: torch.empty_like(args[0]),
        "batch_norm_backward_elemt": lambda: torch.empty_like(args[0]),
        "batch_norm_backward_reduce": lambda: of_channels(4),
    }
    return kernels[name]()
