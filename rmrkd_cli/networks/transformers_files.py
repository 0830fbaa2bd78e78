"""Read what is published beside the weights of a transformers model: `config.json` and the normalization of images.

Only values are read: no code of a model is run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rmrkd_cli.data.normalization import IMAGENET, Normalization
from rmrkd_cli.errors import RmrkdError, summarize_error
from rmrkd_cli.networks.hub import fetch_hub_file, is_hub_name
from rmrkd_cli.presets.network_schema import Network
from rmrkd_cli.storage.regular_file import read_regular

CONFIG = "config.json"
HINT = "give a folder that `save_pretrained` wrote, or `weights: none`"
_PREPROCESSOR = "preprocessor_config.json"
_MAX_CONFIG_BYTES = 1 << 20


def is_hub_model(weights: str) -> bool:
    """Return whether `weights` name a model on the hub, and no file or folder here."""
    is_file = weights.endswith((".pth", ".pt", ".safetensors"))
    return not Path(weights).exists() and is_hub_name(weights) and not is_file


def read_config(spec: Network) -> dict[str, Any]:
    """Return the `config.json` of a preset's weights; empty where they have none.

    Raises:
        RmrkdError: It is too large, or it is not a JSON object.
    """
    return _read_json(spec, CONFIG)


def read_options(spec: Network, model_type: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return those of the options that the `config.json` of a preset's weights has.

    Raises:
        RmrkdError: It is of another type of model, or unreadable.
    """
    config = read_config(spec)
    if config and config.get("model_type") != model_type:
        raise RmrkdError(
            f"`{spec.weights}` is a `{str(config.get('model_type'))[:50]}` model, and `{spec.name}` needs "
            f"`{model_type}`",
            HINT,
        )
    return {key: config[key] for key in names if key in config}


def read_normalization(spec: Network) -> Normalization:
    """Return the normalization in the `preprocessor_config.json` of a preset's weights; without one, ImageNet's.

    Raises:
        RmrkdError: As `read_config`.
    """
    settings = _read_json(spec, _PREPROCESSOR)
    try:
        mean, std = ([255 * float(value) for value in settings[key]] for key in ("image_mean", "image_std"))
    except (KeyError, TypeError, ValueError):
        return IMAGENET
    found = Normalization(mean, std, rgb=True)
    return IMAGENET if len(mean) != 3 or len(std) != 3 or found.matches(IMAGENET) else found


def _read_json(spec: Network, name: str) -> dict[str, Any]:
    weights = spec.weights
    if weights is None or weights == "none":
        return {}
    path = Path(weights) / name if Path(weights).is_dir() else Path(weights).parent / name
    if is_hub_model(weights):
        if name == _PREPROCESSOR:  # SegFormer's models on the hub all have ImageNet's normalization
            return {}
        path = fetch_hub_file(weights, name, hint=HINT)
    if not path.is_file():
        return {}
    try:
        contents = json.loads(read_regular(path, _MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise RmrkdError(f"`{path}` is not a readable JSON file: {summarize_error(error)[:200]}", HINT) from error
    if not isinstance(contents, dict):
        raise RmrkdError(f"`{path}` must be a JSON object", HINT)
    return contents
