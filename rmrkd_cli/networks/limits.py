"""Limit what the config of an unknown author can do: it must not download, open files, or exhaust memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules import module as hooks

from rmrkd_cli.errors import RmrkdError

MAX_INTEGER = 1 << 17  # in a config: mmsegmentation loops over some of them
MAX_PARAMETERS = 1 << 30
MAX_LAYERS = 6_000
_MAX_VALUES = 20_000
_MAX_DEPTH = 30
_MAX_SHOWN = 120  # characters of a path in a message
# mmcv's initializers that draw random numbers; `Pretrained` reads a file, from any address.
_RANDOM_INITS = ("Constant", "Xavier", "Normal", "TruncNormal", "Uniform", "Kaiming", "Caffe2Xavier")
_DOWNLOADING = ("TIMMBackbone",)
_WEIGHT_KEYS = ("pretrained", "init_cfg", "checkpoint", "checkpoint_path")


def sanitize_config(config: Mapping[str, Any], name: str = "network") -> dict[str, Any]:
    """Return a copy of a config that only builds a network.

    Initial weights are removed: they come from the checkpoint, or from `weights.fetch_imagenet`.

    Raises:
        RmrkdError: An entry would open a file or is too large; the message has its path in the config.
    """
    copy = _copy(config, name, [0], 0)
    assert isinstance(copy, dict)
    return copy


def _copy(value: Any, where: str, counter: list[int], depth: int) -> Any:
    counter[0] += 1
    where = where if len(where) < _MAX_SHOWN else f"…{where[-_MAX_SHOWN:]}"
    if counter[0] > _MAX_VALUES or depth > _MAX_DEPTH:
        raise RmrkdError(f"the config of the {where.split('.')[0]} is too large or nested too deep, at `{where[:80]}`")
    if isinstance(value, Mapping):
        kind = value.get("type")
        if kind is not None and (not isinstance(kind, str) or "." in kind or kind in _DOWNLOADING):
            raise RmrkdError(f"`{where}.type` is {kind!r:.80}, which is not a class of mmsegmentation")
        if isinstance(value.get("class_weight"), str):  # mmsegmentation would unpickle it
            raise RmrkdError(
                f"`{where}.class_weight` names the file {value['class_weight']!r:.80}, which is not allowed",
                "give the weights as a list",
            )
        kept = {
            key: inner
            for key, inner in value.items()
            if key not in _WEIGHT_KEYS or (key == "init_cfg" and _is_random_init(inner))
        }
        return {str(key): _copy(inner, f"{where}.{key}", counter, depth + 1) for key, inner in kept.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(inner, f"{where}.{number}", counter, depth + 1) for number, inner in enumerate(value))
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise RmrkdError(f"`{where}` is {value if value.bit_length() < 99 else 'huge'}, more than {MAX_INTEGER}")
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise RmrkdError(f"`{where}` is a {type(value).__name__}; a config has only strings, numbers, lists and mappings")


def _is_random_init(init: Any) -> bool:
    """Return whether every initializer, also those in `override`, only draws random numbers."""
    if isinstance(init, Mapping):
        return init.get("type", "Normal") in _RANDOM_INITS and all(
            _is_random_init(inner) for inner in init.values() if isinstance(inner, (Mapping, list, tuple))
        )
    if isinstance(init, (list, tuple)):
        return all(_is_random_init(inner) for inner in init if isinstance(inner, (Mapping, list, tuple)))
    return init is None


@contextmanager
def limit_network_size(max_parameters: int = MAX_PARAMETERS, name: str = "network") -> Iterator[None]:
    """Limit the parameters and layers of a network that is built in this block.

    Each is counted when it is registered, before it is initialized: memory that is never written is never allocated.

    Raises:
        RmrkdError: The network is larger.
    """
    counted = {"parameters": 0, "layers": 0}

    def count_parameter(_: nn.Module, __: str, value: Any) -> None:
        counted["parameters"] += value.numel() if value is not None else 0
        if counted["parameters"] > max_parameters:
            raise RmrkdError(f"the {name}'s config describes more than {max_parameters:,} parameters")

    def count_layer(_: nn.Module, __: str, ___: Any) -> None:
        counted["layers"] += 1
        if counted["layers"] > MAX_LAYERS:
            raise RmrkdError(f"the {name}'s config describes more than {MAX_LAYERS:,} layers")

    handles = [
        hooks.register_module_parameter_registration_hook(count_parameter),
        hooks.register_module_module_registration_hook(count_layer),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
