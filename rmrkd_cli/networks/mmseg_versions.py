"""Read a config of mmsegmentation 0.x or 1.x: its network in the form of 0.x, and how images are normalized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from rmrkd_cli.data.normalization import IMAGENET, Normalization

PREPROCESSOR = "data_preprocessor"  # key of `model` in 1.x; in rmrkd it has the normalization of a config of 0.x too
_PREPROCESSOR_TYPE = "SegDataPreProcessor"  # it swaps channels only if told to
_NORMALIZATION_PLACES = (
    ("model", PREPROCESSOR), ("data", "test"), ("data", "val"), ("test_pipeline",), ("img_norm_cfg",), (PREPROCESSOR,),
    ("data", "train"),
)  # fmt: skip
_MODULES = ("mmseg.", "mmcv.cnn.", "torch.nn.")  # before a class in 1.x's configs; 0.x knows these classes without it
_ZOO = ("open-mmlab://", "mmcls://")
_MAX_DEPTH = 30
_MAX_VALUE = 1e9  # of a mean
_MIN_STD = 1e-6


def model_of(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the `model` of a config of mmsegmentation 0.x or 1.x, in the form of 0.x; None without one.

    If the config normalizes images differently than for ImageNet, `data_preprocessor` has it.
    """
    model = values.get("model")
    if not isinstance(model, Mapping):
        return None
    plain: dict[str, Any] = _without_modules({key: model[key] for key in model if key != PREPROCESSOR}, 0)
    init = get_part(plain, "backbone", "init_cfg", "checkpoint")
    if plain.get("pretrained") is None and isinstance(init, str) and init.startswith(_ZOO):
        plain["pretrained"] = init
    found = find_normalization(values)
    if found is not None and found != IMAGENET:
        plain[PREPROCESSOR] = {
            "type": _PREPROCESSOR_TYPE, "mean": found.mean, "std": found.std, "bgr_to_rgb": found.rgb,
        }  # fmt: skip
    return plain


def split_preprocessor(model: Mapping[str, Any]) -> tuple[dict[str, Any], Normalization]:
    """Return the part of a `model` that mmsegmentation 0.x builds, and how images are normalized."""
    rest = {key: value for key, value in model.items() if key != PREPROCESSOR}
    return rest, _normalization_in(model.get(PREPROCESSOR), 0) or IMAGENET


def find_normalization(values: Mapping[str, Any]) -> Normalization | None:
    """Return how a config normalizes images of three channels, or None if it does not say."""
    candidates = (_normalization_in(get_part(values, *keys), 0) for keys in _NORMALIZATION_PLACES)
    return next((candidate for candidate in candidates if candidate is not None), None)


def get_part(part: Any, *keys: str) -> Any:
    """Return a part of nested mappings, or None."""
    for key in keys:
        part = part.get(key) if isinstance(part, Mapping) else None
    return part


def _normalization_in(part: object, depth: int) -> Normalization | None:
    """Return the first normalization in a part of a config, at any depth."""
    if isinstance(part, Mapping):
        mean, std, is_preprocessor = part.get("mean"), part.get("std"), part.get("type") == _PREPROCESSOR_TYPE
        swaps = part.get("bgr_to_rgb") or part.get("rgb_to_bgr")  # mmcv reads images as BGR
        rgb = bool(swaps if is_preprocessor else part.get("to_rgb", True))
        if is_preprocessor and mean is None:
            return Normalization([0.0] * 3, [1.0] * 3, rgb)
        if _is_number_triple(mean) and _is_number_triple(std) and min(std) >= _MIN_STD:
            return Normalization([float(value) for value in mean], [float(value) for value in std], rgb)
    children = part.values() if isinstance(part, Mapping) else part if isinstance(part, (list, tuple)) else ()
    found = (_normalization_in(child, depth + 1) for child in children if depth < _MAX_DEPTH)
    return next((inner for inner in found if inner is not None), None)


def _is_number_triple(value: Any) -> TypeGuard[Sequence[float]]:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_is_number, value))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MAX_VALUE


def _without_modules(value: Any, depth: int) -> Any:
    """Return a part of a `model` whose classes have plain names: `mmseg.models.PSPHead` becomes `PSPHead`."""
    if depth > _MAX_DEPTH:
        return value  # building it reports that it is nested too deep
    if isinstance(value, Mapping):
        plain = {key: _without_modules(inner, depth + 1) for key, inner in value.items()}
        if isinstance(plain.get("type"), str) and plain["type"].startswith(_MODULES):
            plain["type"] = plain["type"].rpartition(".")[2]
        return plain
    if isinstance(value, (list, tuple)):
        return type(value)(_without_modules(inner, depth + 1) for inner in value)
    return value
