"""Build networks with their weights, losses and the distiller from a preset."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.data.stored_outputs import OutputFormat, StoredOutputs
from rmrkd_cli.distillation import custom_loss
from rmrkd_cli.distillation.distiller import Distiller, MapNames
from rmrkd_cli.distillation.label_source import LabelSource
from rmrkd_cli.distillation.map_checks import check_maps
from rmrkd_cli.distillation.teacher import build_teacher, report_partial
from rmrkd_cli.distillation.teacher_outputs import OutputsIndex, read_index
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import LOSSES
from rmrkd_cli.networks.adapter import MapName
from rmrkd_cli.networks.feature_maps import FeatureShapes, measure_shapes
from rmrkd_cli.networks.libraries import MMSEG, build_network, network_config, start_source
from rmrkd_cli.networks.mmseg import own_config_digests
from rmrkd_cli.networks.outline import on_meta
from rmrkd_cli.networks.weights import load_imagenet_backbone, load_weights
from rmrkd_cli.presets.fields import AUTO, LOGITS
from rmrkd_cli.presets.loss_schema import CustomLossSpec, LossSpec, custom_loss_file
from rmrkd_cli.presets.network_schema import Network
from rmrkd_cli.presets.schema import Preset

Log = Callable[[str], None]


@dataclass
class Built:
    """A distiller, the config of the network it trains, and the sources of the weights.

    Attributes:
        index, outputs: Of stored outputs in place of the teacher; None: the teacher is run.
        logits_stride: Of the trained network.
    """

    distiller: Distiller
    config: dict[str, Any]
    sources: dict[str, Any] = field(default_factory=dict)
    index: OutputsIndex | None = None
    outputs: OutputFormat | None = None
    logits_stride: int = 8

    def stored_outputs(self, samples: Sequence[Sample], crop: tuple[int, int]) -> StoredOutputs | None:
        """Return the stored outputs of the teacher for crops of samples; None if the teacher is run."""
        if self.outputs is None:
            return None
        size = (-(-crop[0] // self.logits_stride), -(-crop[1] // self.logits_stride))
        if self.distiller.label_source.teacher:  # labels are resized from the teacher's own positions
            size = self.outputs.crop_size(crop)
        return StoredOutputs(self.outputs, samples, crop=crop, size=size)


def trained_network(preset: Preset, role: str) -> Network:
    """Return the network that a role trains."""
    return preset.teacher if role == "teacher" else preset.student


def config_digests(preset: Preset, role: str) -> dict[str, str]:
    """Return the digests of the config files of the user that describe the networks of a role."""
    networks = {"teacher": preset.teacher} if role == "teacher" else {"student": preset.student}
    if role == "distill" and preset.teacher.outputs is None:
        networks["teacher"] = preset.teacher
    return own_config_digests(networks)


def build_distiller(
    preset: Preset,
    role: str,
    num_classes: int,
    *,
    device: str,
    log: Log,
    with_weights: bool = True,
    code: Sequence[str] = (),
    info: DatasetInfo | None = None,
) -> Built:
    """Build what a role trains. Initial weights depend only on the seed, so all roles start from the same student.

    Args:
        preset: The preset.
        role: "teacher", "baseline" or "distill".
        num_classes: Classes of the data set.
        device: "cpu" or "cuda". Modules stay on the CPU; for "cpu" plain batch norm replaces SyncBN.
        log: Logs a line of progress.
        with_weights: Load or download the starting weights; False leaves everything random (for `--dry-run`).
        code: Python files that the command line names; custom losses of other files do not run.
        info: The data set, for a teacher that is a file.
    """
    spec = trained_network(preset, role)
    config = network_config(spec, num_classes)
    torch.manual_seed(preset.seed)
    what = "teacher" if role == "teacher" else "student"
    network = build_network(config, device=device, name=what)
    sources: dict[str, Any] = {}
    if digests := config_digests(preset, role):
        sources["configs"] = digests
    if with_weights:
        sources[what] = _load_start(network, spec, config, what, log)
    if role != "distill":
        return Built(Distiller(network), config, sources | custom_loss.code_that_ran(preset, role))
    check_has_losses(preset)
    shapes, index, teacher = measure_shapes(network), None, None
    if preset.teacher.outputs is not None:
        index = read_index(Path(preset.teacher.outputs))
        sources["teacher"] = index.source(Path(preset.teacher.outputs))
        teacher_shapes = index.shapes()
    else:
        built = build_teacher(preset, num_classes, device=device, log=log, with_weights=with_weights, info=info)
        teacher, teacher_shapes = built.network, measure_shapes(built.network)
        if built.source:
            sources["teacher"] = built.source
    sizes = measure_shapes(network, preset.schedule.crop).sizes if _needs_map_size(preset, code) else {}
    torch.manual_seed(preset.seed + 1)
    losses = build_losses(preset, shapes, teacher_shapes, num_classes, code, sizes=sizes)
    sources |= custom_loss.code_that_ran(preset, role)
    maps = {name: map_names_of(spec) for name, spec in preset.losses.items()}
    weights = {name: spec.weight for name, spec in preset.losses.items() if spec.weight != AUTO}
    source = label_source(preset)
    if index is None:
        return Built(Distiller(network, teacher, losses, maps, weights, label_source=source), config, sources)
    stored: dict[str, Any] = {"stored_classes": num_classes, "stored_align_corners": index.align_corners}
    distiller = Distiller(network, None, losses, maps, weights, label_source=source, **stored)
    form = index.output_format(Path(str(preset.teacher.outputs)))
    return Built(distiller, config, sources, index, form, shapes.strides["logits"])


def label_source(preset: Preset) -> LabelSource:
    """Return where the labels of a distillation come from."""
    data = preset.data
    return LabelSource(data.train_labels == "files", data.teacher_labels, data.label_threshold or 0.0)


def check_has_losses(preset: Preset) -> None:
    """Raise RmrkdError for a preset without losses, unless the teacher's prediction is the label of some images."""
    if not preset.losses and not preset.data.teacher_labels:
        raise RmrkdError(
            f"preset `{preset.name}` has no distillation losses", "--role baseline trains the student alone"
        )


def build_losses(
    preset: Preset,
    student: FeatureShapes,
    teacher: FeatureShapes,
    num_classes: int,
    code: Sequence[str] = (),
    *,
    outline: bool = False,
    sizes: Mapping[MapName, tuple[int, int]] | None = None,
) -> dict[str, nn.Module]:
    """Return the preset's losses, each built for the channels of the maps it acts on.

    Of `student_channels`, `teacher_channels`, `num_classes`, `on_logits` (whether the map holds logits) and `map_size`
    (height and width of the map of a training crop), a constructor gets those that it names. Channels and sizes are
    tuples for a loss on several maps. Options of a custom loss take their place.

    Args:
        preset: The preset.
        student, teacher: Shapes of the networks' maps.
        num_classes: Classes of the data set.
        code: Python files that the command line names.
        sizes: Height and width of the student's maps of a training crop; those missing follow from their strides.
        outline: Build rmrkd's own losses without memory for their values; a custom loss is built as it is.

    Raises:
        RmrkdError: When maps are missing or differ in size, or a custom loss cannot be built.
    """
    check_maps(preset.losses, student, teacher)
    built: dict[str, nn.Module] = {}
    reserved = nn.ModuleDict()
    for name, spec in preset.losses.items():
        if hasattr(reserved, name):
            raise RmrkdError(f"a loss cannot be called `{name}`", "choose another name in the preset")
        maps = map_names_of(spec)
        available = {
            "student_channels": _of_maps(maps, student.channels.__getitem__),
            "teacher_channels": _of_maps(maps, teacher.channels.__getitem__),
            "num_classes": num_classes,
            "on_logits": maps in LOGITS,
            "map_size": _of_maps(maps, partial(_map_size, student, preset.schedule.crop, sizes or {})),
        }
        if isinstance(spec, CustomLossSpec):
            built[name] = _build_custom(spec, available, code)
        else:
            cls, options = LOSSES[spec.type], spec.model_dump(exclude={"type", "stage", "weight"})
            with on_meta() if outline else nullcontext():
                built[name] = cls(**_named_parameters(cls, available), **options)
    return built


def _build_custom(spec: CustomLossSpec, available: dict[str, Any], code: Sequence[str]) -> nn.Module:
    cls = custom_loss.load_class(spec.type, code)
    file = custom_loss_file(spec.type)
    try:
        loss = cls(**{**_named_parameters(cls, available), **spec.options})
        loss.state_dict()  # fails if `super().__init__()` was not called
    except (Exception, SystemExit) as error:
        options = ", ".join(f"`{key}`" for key in spec.options) or "no options"
        summary = custom_loss.error_summary(error, file)
        raise RmrkdError(f"`{spec.type}` cannot be built with {options}: {summary}") from error
    return custom_loss.wrap_errors(loss, file)


def _named_parameters(cls: type[nn.Module], available: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that a constructor names."""
    parameters = inspect.signature(cls).parameters
    return {key: value for key, value in available.items() if key in parameters}


def map_names_of(spec: LossSpec) -> MapNames:
    """Return the map that a loss acts on, or a tuple of them."""
    return tuple(spec.stage) if isinstance(spec.stage, list) else spec.stage


def _of_maps(maps: MapNames, value: Callable[[MapName], Any]) -> Any:
    """Return the value of a map, or a tuple of those of several."""
    return tuple(map(value, maps)) if isinstance(maps, tuple) else value(maps)


def _needs_map_size(preset: Preset, code: Sequence[str]) -> bool:
    """Return whether the constructor of a loss names `map_size`."""
    for spec in preset.losses.values():
        cls = custom_loss.load_class(spec.type, code) if isinstance(spec, CustomLossSpec) else LOSSES[spec.type]
        if _named_parameters(cls, {"map_size": None}):
            return True
    return False


def _map_size(
    shapes: FeatureShapes, crop: tuple[int, int], sizes: Mapping[MapName, tuple[int, int]], name: MapName
) -> tuple[int, int]:
    if name in sizes:
        return sizes[name]
    height, width = (-(-side // shapes.strides[name]) for side in crop)
    return height, width


def _load_start(network: nn.Module, spec: Network, config: dict[str, Any], what: str, log: Log) -> Any:
    """Load the starting weights of the network that is trained, and return where they come from."""
    given = start_source(spec, what)
    if given is not None:
        source = load_weights(network, given, role=what, may_be_backbone=True)
        log(f"{what} starts from {source['source']}")
        report_partial(source, what, log)
        return source
    if spec.init == "scratch" or spec.library != MMSEG:
        log(f"{what} starts from random weights")
        return "scratch"
    address = load_imagenet_backbone(network, config, what)
    log(f"{what}'s backbone starts from ImageNet weights, its other layers from random ones: {address}")
    return address
