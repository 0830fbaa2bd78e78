"""The keys of each loss in a preset, derived from the signature of its class in `rmrkd_cli/losses`.

The signature is read from the source text. Importing the classes would import torch, which takes seconds, and presets
are also checked by commands that need no torch (`rmrkd presets`, `rmrkd methods`, `--help`).
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, PlainValidator, SerializeAsAny, create_model

from rmrkd_cli.presets import fields
from rmrkd_cli.presets.fields import (
    AUTO,
    CustomLossType,
    FeatureMap,
    FeatureMapOrMaps,
    FeatureMaps,
    LogitsMap,
    LossWeight,
)
from rmrkd_cli.presets.validation import StrictModel, complete_error, format_value, not_allowed

_LOSSES = Path(__file__).resolve().parents[1] / "losses"
_ANNOTATIONS = {**vars(fields), "Literal": Literal}  # the names that a signature may use
# Parameters that are not keys of a preset: the factory fills them in, and rmrkd's labels always use 255 for ignored.
_FILLED_IN = {"self", "student_channels", "teacher_channels", "num_classes", "on_logits", "map_size", "ignore_index"}


class LossSpec(StrictModel):
    """One loss of a preset. Each type has further keys: the options of its class."""

    type: str
    stage: Any  # the map it acts on, or a list of maps: 1 to 4 (backbone), head, logits, aux
    # Factor in the total; `auto` measures one at the start of a run. Without it: the published one for the data set and
    # stage (presets/methods.py), or else `auto`.
    weight: LossWeight = AUTO


class CustomLossSpec(LossSpec):
    """A loss from the user's Python file, which runs only if the command line names the file."""

    type: CustomLossType  # path/to/file.py:Class
    stage: FeatureMapOrMaps = 4
    options: Annotated[dict[str, JsonValue], Field(max_length=50)] = {}  # keyword arguments of the constructor


def loss_types() -> list[str]:
    """Return the types of all losses that rmrkd has: the names of the public files in `rmrkd_cli/losses`."""
    return sorted(path.stem for path in _LOSSES.glob("[!_]*.py"))


@cache
def loss_model(loss_type: str) -> type[LossSpec]:
    """Return the schema of one type: `stage` with its default, `weight`, and the options of its constructor."""
    base, own = _read_class("_base"), _read_class(loss_type)
    defaults = {**_class_attributes(base), **_class_attributes(own)}
    parameters = _parameters(own) or _parameters(base)
    stage: Any = LogitsMap
    if "student_channels" in parameters:
        stage = FeatureMaps if parameters["student_channels"][0].startswith("tuple") else FeatureMap
    options = {
        name: (eval(annotation, _ANNOTATIONS), default)
        for name, (annotation, default) in parameters.items()
        if name not in _FILLED_IN
    }
    keys: dict[str, Any] = {
        "type": (Literal[loss_type], ...),
        "stage": (stage, defaults["default_stage"]),
        **options,
    }
    return create_model(loss_type, __base__=LossSpec, **keys)


def needs_labels(loss_type: str) -> bool:
    """Return whether a loss of rmrkd reads labels, as its class says in `needs_labels`."""
    attributes = {**_class_attributes(_read_class("_base")), **_class_attributes(_read_class(loss_type))}
    return bool(attributes["needs_labels"])


def search_range(loss_type: str) -> dict[str, tuple[float, float]]:
    """Return the options of a loss of rmrkd that `rmrkd tune` searches, each with its range."""
    attributes = {**_class_attributes(_read_class("_base")), **_class_attributes(_read_class(loss_type))}
    return dict(attributes["search"])


def _read_class(file: str) -> ast.ClassDef:
    """Return the one loss class of a file, parsed."""
    tree = ast.parse((_LOSSES / f"{file}.py").read_text(encoding="utf-8"))
    bases = ("nn.Module",) if file == "_base" else ("DistillationLoss",)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    (cls,) = (node for node in classes if any(ast.unparse(base) in bases for base in node.bases))
    return cls


def _class_attributes(cls: ast.ClassDef) -> dict[str, Any]:
    """Return the class attributes that are literals."""
    found: dict[str, Any] = {}
    for node in cls.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            found[ast.unparse(target)] = ast.literal_eval(node.value)
    return found


def _parameters(cls: ast.ClassDef) -> dict[str, tuple[str, Any]]:
    """Return name -> (annotation, default) of the constructor's parameters; empty where the class has none."""
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments, defaults = node.args.args, [ast.literal_eval(default) for default in node.args.defaults]
            required = len(arguments) - len(defaults)
            annotations = [ast.unparse(each.annotation) if each.annotation else "" for each in arguments]
            return {
                each.arg: (annotation, default)
                for each, annotation, default in zip(arguments, annotations, [...] * required + defaults, strict=True)
            }
    return {}


def is_custom_loss(loss_type: str) -> bool:
    """Return whether a type has the form `path/to/file.py:Class`."""
    return ".py:" in loss_type


def custom_loss_file(loss_type: str) -> str:
    """Return the file of a custom type."""
    return loss_type.rpartition(":")[0]


def _parse_loss(value: Any) -> LossSpec:
    """Return the loss that a mapping with a `type` describes."""
    if isinstance(value, LossSpec):
        return value
    if not isinstance(value, dict):
        raise complete_error(f"must be a mapping with a `type`, got {format_value(value)}")
    if "type" not in value:
        raise complete_error("`type` is required, but missing")
    loss_type = value["type"]
    if not isinstance(loss_type, str):
        raise complete_error(f"`type` must be a name, got {format_value(loss_type)}")
    if is_custom_loss(loss_type):
        return CustomLossSpec.model_validate(value)
    if loss_type not in loss_types():
        raise complete_error(not_allowed(loss_type, loss_types()))
    return loss_model(loss_type).model_validate(value)


def _check_names(losses: dict[str, LossSpec]) -> dict[str, LossSpec]:
    for name in losses:
        if not name.isidentifier() or len(name) > 100 or name in ("ce", "aux_ce"):
            raise ValueError(f"`{name}` cannot name a loss: use letters, digits and _, but not `ce` or `aux_ce`")
    return losses


Losses = Annotated[
    dict[str, SerializeAsAny[Annotated[LossSpec, PlainValidator(_parse_loss)]]],
    Field(max_length=20),
    AfterValidator(_check_names),
]
