"""A network's configuration from a stranger: nothing in it may fetch, open a file, or grow beyond bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules import module as hooks

from rmrkd_cli.errors import RmrkdError

MOST_NUMBER = 1 << 17  # of any whole number in a config: mmsegmentation loops over some of them
MOST_PARAMETERS = 1 << 30
MOST_LAYERS = 6_000
_MOST_VALUES = 20_000
_MOST_DEPTH = 30
_SHOWN = 120
# The initialisers of mmcv that draw numbers; the other one, `Pretrained`, reads a file from anywhere.
_DRAWN = ("Constant", "Xavier", "Normal", "TruncNormal", "Uniform", "Kaiming", "Caffe2Xavier")
_FETCHING = ("TIMMBackbone",)  # of timm, which downloads
_WEIGHTS = ("pretrained", "init_cfg", "checkpoint", "checkpoint_path")


def inert(config: Mapping[str, Any], name: str = "network") -> dict[str, Any]:
    """A copy that builds a network and does nothing else.

    Starting weights named inside it are left out: they come from the checkpoint, or as `fetch_imagenet` says.

    Raises:
        RmrkdError: Naming the place, when something in it would read a file, or is beyond bounds.
    """
    counted = [0]
    copied = _copied(config, name, counted, 0)
    assert isinstance(copied, dict)
    return copied


def _copied(value: Any, where: str, counted: list[int], depth: int) -> Any:
    counted[0] += 1
    where = where if len(where) < _SHOWN else f"…{where[-_SHOWN:]}"
    if counted[0] > _MOST_VALUES or depth > _MOST_DEPTH:
        raise RmrkdError(f"the config of the {where.split('.')[0]} has no end: `{where[:80]}`")
    if isinstance(value, Mapping):
        kind = value.get("type")
        if kind is not None and (not isinstance(kind, str) or "." in kind or kind in _FETCHING):
            raise RmrkdError(f"`{where}.type` is {kind!r:.80}, which is none of mmsegmentation's own")
        if isinstance(value.get("class_weight"), str):  # mmsegmentation reads it with pickle
            raise RmrkdError(
                f"`{where}.class_weight` names the file {value['class_weight']!r:.80}, which is not read",
                "give the weights themselves as a list",
            )
        kept = {
            key: inner for key, inner in value.items() if key not in _WEIGHTS or (key == "init_cfg" and _drawn(inner))
        }
        return {str(key): _copied(inner, f"{where}.{key}", counted, depth + 1) for key, inner in kept.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(
            _copied(inner, f"{where}.{number}", counted, depth + 1) for number, inner in enumerate(value)
        )
    if isinstance(value, int) and abs(value) > MOST_NUMBER:
        raise RmrkdError(f"`{where}` is {value if value.bit_length() < 99 else 'huge'}, more than {MOST_NUMBER}")
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise RmrkdError(f"`{where}` is a {type(value).__name__}; a config holds texts, numbers, lists and groups")


def _drawn(init: Any) -> bool:
    """Whether every initialiser, also those inside `override`, only draws numbers."""
    if isinstance(init, Mapping):
        return init.get("type", "Normal") in _DRAWN and all(
            _drawn(inner) for inner in init.values() if isinstance(inner, (Mapping, list, tuple))
        )
    if isinstance(init, (list, tuple)):
        return all(_drawn(inner) for inner in init if isinstance(inner, (Mapping, list, tuple)))
    return init is None


@contextmanager
def limit_building(most_parameters: int = MOST_PARAMETERS, name: str = "network") -> Iterator[None]:
    """While it is open, a network that is built may have no more elements and layers than this.

    Each is counted when it gets its name, before it is filled: memory that nothing was written to costs nothing.

    Raises:
        RmrkdError: When it grows beyond.
    """
    counted = {"parameters": 0, "layers": 0}

    def parameter(_: nn.Module, __: str, value: Any) -> None:
        counted["parameters"] += value.numel() if value is not None else 0
        if counted["parameters"] > most_parameters:
            raise RmrkdError(f"the {name}'s config describes more than {most_parameters:,} parameters")

    def layer(_: nn.Module, __: str, ___: Any) -> None:
        counted["layers"] += 1
        if counted["layers"] > MOST_LAYERS:
            raise RmrkdError(f"the {name}'s config describes more than {MOST_LAYERS:,} layers")

    handles = [
        hooks.register_module_parameter_registration_hook(parameter),
        hooks.register_module_module_registration_hook(layer),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
