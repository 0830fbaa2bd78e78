"""From a preset to modules: networks with their weights, losses, and the distiller."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from rmrkd_cli.distillation import custom_loss
from rmrkd_cli.distillation.distiller import Distiller, Where
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import LOSSES
from rmrkd_cli.networks.feature_maps import Place
from rmrkd_cli.networks.mmseg import (
    Shapes,
    build_network,
    load_imagenet_backbone,
    load_weights,
    network_config,
    shapes_of,
)
from rmrkd_cli.presets.fields import AUTO, LOGITS
from rmrkd_cli.presets.loss_schema import CodeSpec, LossSpec, code_file
from rmrkd_cli.presets.schema import Network, Preset

Say = Callable[[str], None]


@dataclass
class Built:
    """A distiller, the config of the network it trains, and where the weights came from."""

    distiller: Distiller
    config: dict[str, Any]
    sources: dict[str, Any] = field(default_factory=dict)


def trained_network(preset: Preset, role: str) -> Network:
    """The network a role trains."""
    return preset.teacher if role == "teacher" else preset.student


def build_distiller(
    preset: Preset,
    role: str,
    num_classes: int,
    *,
    device: str,
    log: Say,
    with_weights: bool = True,
    code: Sequence[str] = (),
) -> Built:
    """Builds what a role trains. Initial weights depend on the seed alone, so roles start from the same student.

    Args:
        device: "cpu" or "cuda"; modules stay on the CPU, plain batch norm replaces SyncBN for "cpu".
        with_weights: Load or fetch starting weights; False leaves everything random (for `--dry-run`).
        code: Files that the command line names, whose losses may run.
    """
    spec = trained_network(preset, role)
    config = network_config(spec, num_classes)
    torch.manual_seed(preset.seed)
    network = build_network(config, device=device, name="teacher" if role == "teacher" else "student")
    sources: dict[str, Any] = {}
    if with_weights:
        what = "teacher" if role == "teacher" else "student"
        sources[what] = _start(network, spec, config, what, log)
    if role != "distill":
        return Built(Distiller(network), config, sources)
    if not preset.losses:
        raise RmrkdError(
            f"preset `{preset.name}` names no losses to distil with", "--role baseline trains the student alone"
        )

    teacher = build_network(network_config(preset.teacher, num_classes), device=device, name="teacher")
    if with_weights:
        if preset.teacher.checkpoint is None:
            raise RmrkdError(
                f"preset `{preset.name}` trains its own teacher, and none was given",
                f"rmrkd train --preset {preset.name} --role all, or --teacher-checkpoint FILE",
            )
        sources["teacher"] = load_weights(teacher, preset.teacher.checkpoint, what="teacher")
        _tell_partial(sources["teacher"], "teacher", log)
    torch.manual_seed(preset.seed + 1)
    losses = build_losses(preset, shapes_of(network), shapes_of(teacher), num_classes, code)
    if hashes := custom_loss.hashes(preset, code):
        sources["code"] = hashes
    stages = {name: where_of(spec) for name, spec in preset.losses.items()}
    weights = {name: spec.weight for name, spec in preset.losses.items() if spec.weight != AUTO}
    return Built(Distiller(network, teacher, losses, stages, weights), config, sources)


def build_losses(
    preset: Preset, student: Shapes, teacher: Shapes, num_classes: int, code: Sequence[str] = ()
) -> dict[str, nn.Module]:
    """The preset's losses, each for the channels met where it acts.

    A loss takes of `student_channels`, `teacher_channels`, `num_classes` and `on_logits` (whether the map is one of
    logits) what its constructor names; channels are tuples where it acts on several maps.
    """
    built: dict[str, nn.Module] = {}
    taken = nn.ModuleDict()
    for name, spec in preset.losses.items():
        if hasattr(taken, name):
            raise RmrkdError(f"a loss cannot be called `{name}`", "choose another name in the preset")
        where = where_of(spec)
        for place in where if isinstance(where, tuple) else (where,):
            _check_place(name, place, student, teacher)
        given = {
            "student_channels": _channels(student, where),
            "teacher_channels": _channels(teacher, where),
            "num_classes": num_classes,
            "on_logits": where in LOGITS,
        }
        built[name] = _own(spec, given, code) if isinstance(spec, CodeSpec) else _known(spec, given)
    return built


def _known(spec: LossSpec, given: dict[str, Any]) -> nn.Module:
    cls = LOSSES[spec.type]
    return cls(**_taken(cls, given), **spec.model_dump(exclude={"type", "stage", "weight"}))


def _own(spec: CodeSpec, given: dict[str, Any], code: Sequence[str]) -> nn.Module:
    cls = custom_loss.load_class(spec.type, code)
    file = code_file(spec.type)
    try:
        made = cls(**_taken(cls, given), **spec.options)
        made.state_dict()  # fails where `super().__init__()` was left out
    except (Exception, SystemExit) as error:
        options = ", ".join(f"`{key}`" for key in spec.options) or "no options"
        told = custom_loss.told(error, file)
        raise RmrkdError(f"`{spec.type}` cannot be made with {options}: {told}") from error
    return custom_loss.guarded(made, file)


def _taken(cls: type[nn.Module], given: dict[str, Any]) -> dict[str, Any]:
    """What a constructor names."""
    parameters = inspect.signature(cls).parameters
    return {key: value for key, value in given.items() if key in parameters}


def where_of(spec: LossSpec) -> Where:
    """Where a loss acts."""
    return tuple(spec.stage) if isinstance(spec.stage, list) else spec.stage


def _channels(shapes: Shapes, where: Where) -> int | tuple[int, ...]:
    return tuple(shapes.channels[place] for place in where) if isinstance(where, tuple) else shapes.channels[where]


def _check_place(name: str, place: Place, student: Shapes, teacher: Shapes) -> None:
    """Raises RmrkdError where one of the networks has no such map, or backbones have it at unequal strides."""
    for what, shapes in (("student", student), ("teacher", teacher)):
        if place not in shapes.strides:
            known = ", ".join(map(str, shapes.strides))
            raise RmrkdError(
                f"loss `{name}` at stage `{place}`: the {what} has no such map",
                f"choose another: {known}; --set losses.{name}.stage=logits",
            )
    if isinstance(place, int) and student.strides[place] != teacher.strides[place]:
        raise RmrkdError(
            f"loss `{name}` at stage {place}: the student's map has stride {student.strides[place]}, the teacher's "
            f"{teacher.strides[place]}",
            "choose another stage, or strides and dilations in the overrides that make them equal",
        )


def _tell_partial(found: dict[str, str], what: str, log: Say) -> None:
    if "partial" in found:
        log(f"of the {what}'s weights only what fits is loaded, the rest is random: {found['partial']}")


def _start(network: nn.Module, spec: Network, config: dict[str, Any], what: str, log: Say) -> Any:
    if spec.checkpoint is not None and what == "student":  # a teacher's checkpoint is what its role makes
        found = load_weights(network, spec.checkpoint, what=what)
        log(f"{what} starts from {found['source']}")
        _tell_partial(found, what, log)
        return found
    if spec.init == "scratch":
        log(f"{what} starts from random weights")
        return "scratch"
    address = load_imagenet_backbone(network, config, what)
    log(f"{what}'s backbone starts from {address}")
    return address
