"""Keys of a network's config with which mmcv and mmsegmentation would open files, and unpickle what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmrkd_cli.errors import RmrkdError

_WEIGHTS = ("pretrained", "checkpoint", "checkpoint_path")


def names_weights(key: str, value: object) -> bool:
    """Whether a file or an address of initial weights is named."""
    return (key in _WEIGHTS and value is not None) or (isinstance(value, str) and value.split(".")[-1] == "Pretrained")


def names_class_weights(key: str, value: object) -> bool:
    """Whether the class weights of a loss are a file instead of numbers."""
    return key == "class_weight" and isinstance(value, str)


def check_inert(config: Any, name: str) -> None:
    """Raises RmrkdError where a loss would read its class weights from a file."""
    left = [config]
    while left:
        node = left.pop()
        if isinstance(node, Mapping):
            for key, value in node.items():
                if names_class_weights(str(key), value):
                    raise RmrkdError(
                        f"the {name} would read `class_weight` from the file `{value}`, which could run code",
                        "give the numbers themselves",
                    )
            left += node.values()
        elif isinstance(node, (list, tuple)):
            left += node


def without_initial_weights(config: Any) -> Any:
    """A copy in which nothing names initial weights: for networks that are filled from a checkpoint anyway."""
    if isinstance(config, Mapping):
        kept = {key: value for key, value in config.items() if not _initial(str(key), value)}
        return {key: without_initial_weights(value) for key, value in kept.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(without_initial_weights(value) for value in config if not _initial("", value))
    return config


def _initial(key: str, value: object) -> bool:
    """Also a whole `{type: Pretrained, checkpoint: …}`, of which nothing would be left."""
    inside = isinstance(value, Mapping) and any(names_weights(str(k), v) for k, v in value.items() if k == "type")
    return names_weights(key, value) or inside
