"""Metadata in the form of mmsegmentation 0.x, and without objects, so that `weights_only=True` reads it everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rmrkd_cli.checkpoints.safety.placeholders import Omitted


def has_objects(value: Any) -> bool:
    """Return whether a value that `find_unsafe_data` accepts holds NumPy numbers or what is left of other objects."""
    if isinstance(value, Mapping):
        return any(has_objects(item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple)):
        return any(has_objects(item) for item in value)
    return isinstance(value, (Omitted, np.generic, np.ndarray))


def to_plain(value: Any) -> Any:
    """Return a value with NumPy's numbers as Python's, and without what is left of other objects."""
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(item) for key, item in value.items() if not isinstance(item, Omitted)}
    if isinstance(value, (list, tuple)):
        return type(value)([to_plain(item) for item in value if not isinstance(item, Omitted)])
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else value


def in_mmseg_form(meta: dict[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata with the names, colours and config of mmsegmentation 1.x where mmsegmentation 0.x has them.

    Args:
        meta: Of a file.
        rest: The other entries of the file.
    """
    info, hub = meta.get("dataset_meta"), rest.get("message_hub")
    runtime = hub.get("runtime_info") if isinstance(hub, Mapping) else None
    texts = [meta.get("cfg"), runtime.get("cfg") if isinstance(runtime, Mapping) else None]
    added = {"config": next((text for text in texts if isinstance(text, str)), None)}
    if isinstance(info, Mapping):
        added |= {"CLASSES": info.get("classes"), "PALETTE": info.get("palette")}
    return {**{key: value for key, value in added.items() if value is not None}, **meta}
