"""Take feature maps of a network by the names of its modules, while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.networks.adapter import MapName

_INPUT = ":input"  # ends the name of a module whose input is the map


def map_key(name: str) -> MapName:
    """Return the map that a preset calls `stage1` to `stage4`, or `head`."""
    return int(name.removeprefix("stage")) if name.startswith("stage") else name


def map_text(key: MapName) -> str:
    """Return what a preset calls a map."""
    return f"stage{key}" if isinstance(key, int) else key


def check_modules(network: nn.Module, modules: Mapping[MapName, str]) -> None:
    """Check that a network has all modules.

    Raises:
        RmrkdError: One is missing; with the nearest name.
    """
    known = [name for name, _ in network.named_modules() if name]
    for key, text in modules.items():
        name = text.removesuffix(_INPUT)
        if name not in known:
            raise RmrkdError(
                f"`maps.{map_text(key)}`: the network has no module `{name}`; {did_you_mean(name, known)}",
                "rmrkd networks NAME --modules lists the modules with channels and stride",
            )


@contextmanager
def record_maps(network: nn.Module, modules: Mapping[MapName, str]) -> Iterator[dict[MapName, Tensor]]:
    """Record in this block the outputs of modules, or the inputs of those whose name ends with `:input`."""
    maps: dict[MapName, Tensor] = {}
    with ExitStack() as stack:
        for key, text in modules.items():
            module = network.get_submodule(text.removesuffix(_INPUT))
            if text.endswith(_INPUT):
                handle = module.register_forward_pre_hook(_keep_input(maps, key))
            else:
                handle = module.register_forward_hook(_keep_output(maps, key))
            stack.callback(handle.remove)
        yield maps


def _keep_input(maps: dict[MapName, Tensor], key: MapName) -> Any:
    def keep(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        maps[key] = arguments[0]

    return keep


def _keep_output(maps: dict[MapName, Tensor], key: MapName) -> Any:
    def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        maps[key] = output[0] if isinstance(output, (tuple, list)) else output

    return keep
