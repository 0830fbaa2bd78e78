"""The student as others read it: a plain mmsegmentation checkpoint with its config inside."""

from __future__ import annotations

import ast
import pprint
from collections.abc import Mapping
from typing import Any

from rmrkd_cli.data.catalog import DatasetInfo
from rmrkd_cli.data.transforms import NORMALIZE
from rmrkd_cli.errors import RmrkdError

_MMSEG_TYPES = {"cityscapes": "CityscapesDataset", "voc12aug": "PascalVOCDataset", "ade20k": "ADE20KDataset"}
_MAX_TEXT = 1 << 20


def mmseg_config_text(model: Mapping[str, Any], info: DatasetInfo) -> str:
    """Python text that mmcv's `Config` reads and mmsegmentation's `tools/test.py` evaluates with."""
    split = "val" if "val" in info.splits else next(iter(info.splits))
    layout = info.splits[split]
    names, labels = layout.parts[0]
    data: dict[str, Any] = {
        "type": _MMSEG_TYPES.get(info.name, "CustomDataset"),
        "data_root": str(info.root),
        "img_dir": layout.images,
        "ann_dir": labels,
        "pipeline": _test_pipeline(info),
    }
    if names is not None:
        data["split"] = names
    if data["type"] == "CustomDataset":
        data |= {
            "classes": list(info.classes),
            "palette": [list(colour) for colour in info.palette],
            "img_suffix": info.image_suffix,
            "seg_map_suffix": info.label_suffix,
            "ignore_index": min(info.ignore_labels, default=255),
        }
    parts = {
        "model": {**model, "pretrained": None, "train_cfg": {}, "test_cfg": {"mode": "whole"}},
        "dataset_type": data["type"],
        "data": {"samples_per_gpu": 1, "workers_per_gpu": 2, "val": data, "test": data},
        "dist_params": {"backend": "nccl"},
        "log_level": "INFO",
    }
    return "\n".join(f"{name} = {pprint.pformat(value, width=110, sort_dicts=False)}" for name, value in parts.items())


def parse_config_text(text: str) -> dict[str, Any]:
    """The top-level names of a config text, read from its syntax tree; nothing is run.

    Read are literals, `dict(...)` and a small `range(...)`.

    Raises:
        RmrkdError: On anything else, naming the line.
    """
    if len(text) > _MAX_TEXT:
        raise RmrkdError(f"the checkpoint's config text is longer than {_MAX_TEXT} characters")
    try:
        tree = ast.parse(text)
        values: dict[str, Any] = {}
        for statement in tree.body:
            if not isinstance(statement, ast.Assign) or not all(isinstance(t, ast.Name) for t in statement.targets):
                raise _refusal(statement)
            value = _literal(statement.value)
            values.update({target.id: value for target in statement.targets if isinstance(target, ast.Name)})
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise RmrkdError(f"the checkpoint's config text cannot be read: {error}") from error
    return values


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id == "range" and not node.keywords:
            return _range([_literal(argument) for argument in node.args], node)  # `gpu_ids` of the zoo's files
        is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        if not is_dict or any(keyword.arg is None for keyword in node.keywords):
            raise _refusal(node)
        return {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_literal(item) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _literal(node.operand)
        if isinstance(inner, (int, float)):
            return -inner
    if isinstance(node, ast.Constant):
        return node.value
    raise _refusal(node)


def _range(bounds: list[Any], node: ast.Call) -> list[int]:
    if not 1 <= len(bounds) <= 2 or not all(type(bound) is int and 0 <= bound <= 4096 for bound in bounds):
        raise _refusal(node)
    return list(range(*bounds))


def _refusal(node: ast.AST) -> RmrkdError:
    line = getattr(node, "lineno", "?")
    return RmrkdError(
        f"the checkpoint's config text does more than name values (line {line}: {ast.unparse(node)[:80]})",
        "name a preset with --preset to say which network it is",
    )


def _test_pipeline(info: DatasetInfo) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"type": "Resize", "keep_ratio": True},
        {"type": "RandomFlip"},
        {"type": "Normalize", **NORMALIZE},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"]},
    ]
    return [
        {"type": "LoadImageFromFile"},
        {"type": "MultiScaleFlipAug", "img_scale": tuple(info.eval_scale), "flip": False, "transforms": steps},
    ]
