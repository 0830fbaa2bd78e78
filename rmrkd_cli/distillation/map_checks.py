"""Check that teacher and student have the feature maps of every loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.adapter import MapName
from rmrkd_cli.networks.feature_maps import FeatureShapes
from rmrkd_cli.presets.fields import LOGITS
from rmrkd_cli.presets.loss_schema import LossSpec
from rmrkd_cli.presets.methods import methods_on_logits, methods_on_stages
from rmrkd_cli.terminal.text import join_and


def check_maps(losses: Mapping[str, LossSpec], student: FeatureShapes, teacher: FeatureShapes) -> None:
    """Check that both networks have the maps of every loss, those of backbone stages at equal size.

    The maps of a teacher that gives only features are resized.

    Raises:
        RmrkdError: With every loss that does not fit, and the maps that fit.
    """
    if set(teacher.strides) == {"logits"}:
        _check_on_logits(losses)
    if teacher.only_features:
        _check_on_features(losses)
    missing, unequal = {}, {}
    for name, spec in losses.items():
        for map_name in _as_list(spec.stage):
            if problem := _missing(name, map_name, student, teacher):
                missing[problem] = name
            elif problem := _unequal(name, map_name, student, teacher):
                unequal[problem] = name
    problems = [*missing, *unequal]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        message = problems[0] if len(problems) == 1 else f"{len(problems)} maps of losses do not fit:{lines}"
        fitting = list(_fitting(student, teacher))
        logits = "logits" in fitting
        fixes = [_other_map(name, fitting, logits=logits) for name in dict.fromkeys(missing.values())]
        fixes += [_logits_or_stage(list(dict.fromkeys(unequal.values())), fitting)] if unequal else []
        raise RmrkdError(message, "; ".join(fixes))


def _check_on_logits(losses: Mapping[str, LossSpec]) -> None:
    """Raise RmrkdError if a loss compares feature maps."""
    others = {name: loss.stage for name, loss in losses.items() if loss.stage != "logits"}
    methods = f"on logits: --method {', '.join(methods_on_logits())}"
    _refuse(others, len(losses), "the teacher gives only logits, no feature maps", methods, "feature maps")


def _check_on_features(losses: Mapping[str, LossSpec]) -> None:
    """Raise RmrkdError if a loss compares logits."""
    others = {name: loss.stage for name, loss in losses.items() if set(LOGITS) & set(_as_list(loss.stage))}
    methods = f"on the stages: --method {', '.join(methods_on_stages())}"
    _refuse(others, len(losses), "the teacher gives feature maps and no logits", methods, "logits")


def _refuse(others: Mapping[str, Any], count: int, gives: str, methods: str, maps: str) -> None:
    """Raise RmrkdError if there are losses on maps that the teacher does not give.

    Args:
        others: Their maps, by the name of the loss.
        count: Of all losses.
        gives: What the teacher gives.
        methods: Those that need no more.
        maps: What is missing.
    """
    if others:
        places = join_and([f"`{name}` ({_place(stage)})" for name, stage in others.items()])
        left_out = " ".join(f"--set losses.{name}=null" for name in others)
        raise RmrkdError(
            f"{gives}, which {places} compare{'s' * (len(others) == 1)}",
            f"choose a method {methods}"
            + (f"; or leave the losses on {maps} out: {left_out}" if len(others) < count else ""),
        )


def _as_list(stage: MapName | list[MapName]) -> list[MapName]:
    return stage if isinstance(stage, list) else [stage]


def _place(stage: MapName | list[MapName]) -> str:
    places = _as_list(stage)
    return ", ".join(f"stage {place}" if isinstance(place, int) else place for place in places)


def _missing(loss: str, map_name: MapName, student: FeatureShapes, teacher: FeatureShapes) -> str:
    for what, shapes in (("student", student), ("teacher", teacher)):
        if map_name not in shapes.strides:
            return f"loss `{loss}` at stage `{map_name}`: the {what} has no such map"
    return ""


def _unequal(loss: str, map_name: MapName, student: FeatureShapes, teacher: FeatureShapes) -> str:
    """Return what is wrong with a stage of both backbones; the maps of heads are resized."""
    if not isinstance(map_name, int) or teacher.only_features:
        return ""
    if student.strides[map_name] != teacher.strides[map_name]:
        return (
            f"loss `{loss}` at stage {map_name}: the student's map has stride {student.strides[map_name]}, the "
            f"teacher's {teacher.strides[map_name]}"
        )
    ours, theirs = (shapes.sizes.get(map_name) for shapes in (student, teacher))
    if ours != theirs and ours is not None and theirs is not None:
        return (
            f"loss `{loss}` at stage {map_name}: the student's map of a crop has {ours[0]}x{ours[1]} positions, the "
            f"teacher's {theirs[0]}x{theirs[1]}"
        )
    return ""


def _other_map(loss: str, fitting: Sequence[MapName], *, logits: bool) -> str:
    leave_out = f"leave the loss out: --set losses.{loss}=null"
    example = "logits" if logits or not fitting else fitting[-1]
    return f"choose another: {', '.join(map(str, fitting))}; --set losses.{loss}.stage={example}, or {leave_out}"


def _logits_or_stage(losses: Sequence[str], fitting: Sequence[MapName]) -> str:
    stages = [name for name in fitting if isinstance(name, int)]
    logits = "distil the logits, which are resized: --method cwd or --method kd, or `stage: logits` in the preset"
    if not stages:
        return f"{logits}; no stage of the two backbones has equal size"
    options = " ".join(f"--set losses.{loss}.stage={stages[-1]}" for loss in losses)
    return f"{logits}; or take a stage of equal size ({', '.join(map(str, stages))}): {options}"


def _fitting(student: FeatureShapes, teacher: FeatureShapes) -> Iterator[MapName]:
    """Yield the maps on which a loss can act."""
    for name in student.strides:
        if name in teacher.strides and not _unequal("", name, student, teacher):
            yield name
