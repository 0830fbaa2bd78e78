"""List the feature maps of a network, and every module whose output could be one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.errors import RmrkdError, did_you_mean, summarize_error
from rmrkd_cli.networks import smp, torchvision, transformers
from rmrkd_cli.networks.adapter import MapName, adapter_of
from rmrkd_cli.networks.file_network import FileNetwork
from rmrkd_cli.networks.libraries import build_network, build_outline, network_config
from rmrkd_cli.networks.outline import on_meta
from rmrkd_cli.networks.recorded_maps import map_text
from rmrkd_cli.presets.network_schema import Network

_SIDE = 512  # pixels of the image: a multiple of every stride
_NDIM = 4


@dataclass(frozen=True)
class ListedMap:
    """A feature map of a network.

    Attributes:
        name: Of the map: `stage1` to `stage4`, `head`, `logits`, `aux`; of a module: its class.
        module: Name of the module whose output it is, `NAME:input` for an input; empty where it is neither.
        stride: Pixels of the image for one position.
    """

    name: str
    module: str
    channels: int
    stride: int


@dataclass(frozen=True)
class Listing:
    """The maps of a network that losses can name, and the modules that `maps` in a preset can name."""

    maps: list[ListedMap]
    modules: list[ListedMap]
    parameters: int


def list_maps(spec: Network, num_classes: int, what: str, info: DatasetInfo | None = None) -> Listing:
    """Run a network once on an image without values, or with them where it needs them.

    Args:
        what: Name of the network in messages.
        info: The data set, for a teacher that is a file.

    Raises:
        RmrkdError: The network cannot be built or run.
    """
    config = network_config(spec, num_classes, info)
    network = build_outline(config, what)
    try:
        with on_meta():
            return _list(network)
    except RmrkdError:
        raise
    except Exception:  # an operation that needs values
        pass
    try:
        return _list(build_network(config, device="cpu", name=what))
    except RmrkdError:
        raise
    except Exception as error:
        raise RmrkdError(
            f"the {what} cannot process an image of {_SIDE}x{_SIDE}: {summarize_error(error)[:300]}"
        ) from error


@torch.no_grad()
def _list(network: nn.Module) -> Listing:
    network.eval()
    device = next((parameter.device for parameter in network.parameters()), torch.get_default_device())
    adapter = adapter_of(network)
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, module in network.named_modules():
            if name:
                handle = module.register_forward_hook(_keep(name, inputs, outputs))
                stack.callback(handle.remove)
        maps = adapter.maps(network, torch.zeros(1, 3, _SIDE, _SIDE, device=device), auxiliary=True)
    places: Mapping[MapName, str] = getattr(adapter, "modules", {})  # of maps that are outputs in another shape
    named = [
        ListedMap(map_text(key), _place(value, outputs, inputs) or places.get(key, ""), value.shape[1], _stride(value))
        for key, value in maps.items()
        if not str(key).startswith("_")
    ]
    height, width = next(iter(maps.values())).shape[2:]
    size = (height, width)
    classes = dict(network.named_modules())
    modules = [
        ListedMap(type(classes[name]).__name__, name, value.shape[1], _stride(value))
        for name, value in ((name, adapter.as_map(output, size)) for name, output in outputs.items())
        if value.ndim == _NDIM and 0 < value.shape[2] <= _SIDE
    ]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if isinstance(network, FileNetwork):
        parameters, modules = network.runner.parameters, []
    return Listing(sorted(named, key=lambda each: _order(each.name)), modules, parameters)


def _keep(name: str, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> Any:
    def keep(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if arguments and isinstance(arguments[0], Tensor):
            inputs[name] = arguments[0]
        if isinstance(output, Tensor):
            outputs[name] = output

    return keep


def _place(value: Tensor, outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> str:
    """Return the outermost module whose output a map is, or else whose input.

    Others may pass the same map on, such as an identity in a decoder: the first module counts, or one that it is in.
    """
    for found, ending in ((outputs, ""), (inputs, ":input")):
        names = [name for name, each in found.items() if each is value]
        if names:
            return min((name for name in names if f"{names[0]}.".startswith(f"{name}.")), key=len) + ending
    return ""


def _stride(value: Tensor) -> int:
    return round(_SIDE / value.shape[2])


def _order(name: str) -> int:
    known = ["stage1", "stage2", "stage3", "stage4", "head", "logits", "aux"]
    return known.index(name) if name in known else len(known)


def known_networks() -> Iterator[tuple[str, list[str]]]:
    """Yield each library whose networks have names, and the names."""
    yield "torchvision", torchvision.network_names()
    yield "smp", list(smp.ARCHITECTURES)
    yield "transformers", list(transformers.NAMES)


def teacher_files() -> Iterator[tuple[str, str]]:
    """Yield each library whose networks are files, and what they can be."""
    for library, suffix in (("onnx", "onnx"), ("torchscript", "pt")):
        yield library, f"FILE.{suffix}, as the teacher only: a file gives logits, and cannot be trained"


def find_network(name: str, options: Mapping[str, Any]) -> Network:
    """Return the network of this name: of a library, a config of mmsegmentation, or FILE.py:function.

    Raises:
        RmrkdError: No library has it.
    """
    if ".py:" in name:
        return Network(library="python", name=name, options=dict(options))
    if name.endswith(".py"):
        return Network(config=name, overrides=dict(options))
    known = dict(known_networks())
    for library, names in known.items():
        if name in names:
            return Network.model_validate({"library": library, "name": name, "options": dict(options)})
    if Path(name).suffix in (".onnx", ".pt", ".torchscript"):
        raise RmrkdError(
            f"`{name:.200}` is a file, which gives logits and no other map",
            "name it in a preset as the teacher, `teacher: {library: onnx, file: FILE.onnx}`, and give --preset FILE",
        )
    every = [each for names in known.values() for each in names]
    raise RmrkdError(f"no library has a network `{name:.80}`; {did_you_mean(name, every)}", "rmrkd networks lists them")
