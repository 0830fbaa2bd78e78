"""Check the networks and losses of all roles before training, on outlines without values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.distillation.distiller import named_scalars
from rmrkd_cli.distillation.factory import build_losses, check_has_losses, map_names_of
from rmrkd_cli.distillation.teacher_outputs import read_index
from rmrkd_cli.errors import RmrkdError, summarize_error
from rmrkd_cli.networks.feature_maps import FeatureShapes, measure_shapes
from rmrkd_cli.networks.libraries import build_network, build_outline, network_config
from rmrkd_cli.networks.outline import on_meta
from rmrkd_cli.presets.fields import AUTO
from rmrkd_cli.presets.loss_schema import CustomLossSpec
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.presets.user_code import error_summary
from rmrkd_cli.training.label_check import has_images_without_labels, loss_needs_labels

_IGNORED = 255
_USES = {"teacher": ("teacher",), "baseline": ("student",), "distill": ("student", "teacher")}  # role -> networks


@dataclass(frozen=True)
class Outlines:
    """The networks and losses of a preset with names and shapes, but without values.

    Attributes:
        networks: "teacher" and "student", as far as the roles need them.
        losses: Of the role `distill`.
    """

    networks: dict[str, nn.Module]
    losses: dict[str, nn.Module] = field(default_factory=dict)

    def trained_bytes(self, role: str) -> int:
        """Return the size of what a role trains: its network, and the losses of a distillation."""
        modules = [self.networks["teacher" if role == "teacher" else "student"]]
        modules += self.losses.values() if role == "distill" else []
        tensors = [tensor for module in modules for tensor in module.state_dict().values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def check_networks(
    preset: Preset, roles: Sequence[str], num_classes: int, code: Sequence[str] = (), info: DatasetInfo | None = None
) -> Outlines:
    """Build all networks and losses that the roles need, and run each network on a crop.

    It takes no memory for weights and little time, because the tensors have shapes only.

    Args:
        roles: What is trained.
        num_classes: Classes of the data set.
        code: Python files that the command line names.
        info: The data set, for a teacher that is a file.

    Raises:
        RmrkdError: When a network or loss cannot be built, a network has nothing to train or cannot process the crops,
            or the maps that a loss compares are missing or differ in size.
    """
    if "distill" in roles:
        check_has_losses(preset)
    needed = list(dict.fromkeys(what for role in roles for what in _networks(preset, role)))
    configs = {what: network_config(getattr(preset, what), num_classes, info) for what in needed}
    networks = {what: build_outline(config, what) for what, config in configs.items()}
    for what in dict.fromkeys("teacher" if role == "teacher" else "student" for role in roles):
        _check_trainable(networks[what], what)
    shapes: dict[tuple[str, tuple[int, int]], FeatureShapes] = {}
    for what, crop in ((what, preset.schedule_for(role).crop) for role in roles for what in _networks(preset, role)):
        if (what, crop) not in shapes:
            shapes[what, crop] = _run_on_crop(networks[what], configs[what], what, crop)
    if "distill" not in roles:
        return Outlines(networks)
    crop = preset.schedule.crop
    outputs = preset.teacher.outputs
    teacher = shapes["teacher", crop] if outputs is None else read_index(Path(outputs)).shapes()
    pair = shapes["student", crop], teacher
    losses = build_losses(preset, *pair, num_classes, code, outline=True, sizes=pair[0].sizes)
    for name, spec in preset.losses.items():
        if isinstance(spec, CustomLossSpec):
            _try_loss(name, spec, losses[name], pair, preset, num_classes)
    return Outlines(networks, losses)


def _try_loss(
    name: str,
    spec: CustomLossSpec,
    loss: nn.Module,
    pair: tuple[FeatureShapes, FeatureShapes],
    preset: Preset,
    num_classes: int,
) -> None:
    """Compute a custom loss once, on random maps of the right shapes: its code can fail in any way.

    Raises:
        RunError: When its code fails.
        RmrkdError: When it returns no scalar, has no gradient from which its weight could be computed, or needs labels
            where some images have none.
    """
    batch, crop, stages = min(2, preset.schedule.batch_size), preset.schedule.crop, map_names_of(spec)
    keys = stages if isinstance(stages, tuple) else (stages,)
    maps = [
        tuple(torch.randn(batch, shapes.channels[key], *pair[0].sizes[key]) for key in keys) for shapes in pair
    ]  # the teacher's have the student's size
    student = [each.requires_grad_() * 1 for each in maps[0]]  # no leaves, as in training
    labels = torch.randint(0, num_classes, (batch, 1, *crop))
    labels[:, :, : crop[0] // 8] = _IGNORED
    inputs = [tuple(of_network) if isinstance(stages, tuple) else of_network[0] for of_network in (student, maps[1])]
    values = named_scalars(name, loss, loss(*inputs, labels))
    if spec.weight == AUTO and not values[name].requires_grad:
        raise RmrkdError(
            f"cannot compute a weight for loss `{name}`: its gradient norm at the start is 0, because it does not "
            "depend on the student's map",
            f"set the weight: --set losses.{name}.weight=1",
        )
    if has_images_without_labels(preset) and _reads_labels(loss, inputs, labels):
        raise loss_needs_labels(preset, [name])


def _reads_labels(loss: nn.Module, inputs: Sequence[Any], labels: torch.Tensor) -> bool:
    """Return what a custom loss declares in `needs_labels`, or else whether labels of 255 change its value."""
    declared = getattr(loss, "needs_labels", None)
    if isinstance(declared, bool):
        return declared
    values = []
    for given in (labels, torch.full_like(labels, _IGNORED)):
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            value = loss(*inputs, given)
        values.append(torch.stack([*(value.values() if isinstance(value, Mapping) else [value])]))
    return not torch.equal(*values)


def _networks(preset: Preset, role: str) -> tuple[str, ...]:
    """Return which networks a role runs; one whose outputs are stored is not run."""
    return tuple(what for what in _USES[role] if role == what or what == "student" or preset.teacher.outputs is None)


def _run_on_crop(network: nn.Module, config: Mapping[str, Any], what: str, crop: tuple[int, int]) -> FeatureShapes:
    try:
        with on_meta():
            return measure_shapes(network, crop)
    except RmrkdError as error:
        raise RmrkdError(f"the {what} cannot be used: {error.message}", error.hint) from error
    except Exception as error:  # mmsegmentation fails in any way
        if "meta" not in str(error) and not isinstance(error, NotImplementedError):
            raise _cannot_run(what, crop, error, config) from error
    try:  # an operation that needs values
        return measure_shapes(build_network(config, device="cpu", name=what), crop)
    except Exception as error:
        raise _cannot_run(what, crop, error, config) from error


def _check_trainable(network: nn.Module, what: str) -> None:
    parameters = [*network.parameters()]
    if not any(parameter.requires_grad for parameter in parameters):
        why = "all its parameters are frozen" if parameters else "it has no parameters"
        raise RmrkdError(
            f"the {what} cannot be trained: {why}",
            f"name another network, or set `requires_grad` in the code of the {what}",
        )


def _cannot_run(what: str, crop: tuple[int, int], error: Exception, config: Mapping[str, Any]) -> RmrkdError:
    if config.get("library") == "python":
        file = str(config["name"]).rpartition(":")[0]
        return RmrkdError(
            f"the {what} cannot process images of {crop[0]}x{crop[1]}: {error_summary(error, file)}",
            f"correct `forward` in `{file}`, or choose another crop: --set schedule.crop=[HEIGHT,WIDTH]",
        )
    return RmrkdError(
        f"the {what} cannot process crops of {crop[0]}x{crop[1]}: {summarize_error(error)[:300]}",
        f"choose the crop that the config was made for, --set schedule.crop=[HEIGHT,WIDTH], or another {what}.config",
    )
