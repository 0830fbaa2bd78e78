"""What users of a network need to know: its classes, their colours and the image size, from its checkpoint alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmrkd_cli.checkpoints.safety.mmseg_config import parse_config_text
from rmrkd_cli.data.datasets import DatasetInfo, Palette, dataset_info, dataset_without_images
from rmrkd_cli.data.normalization import Normalization
from rmrkd_cli.data.palette import distinct_palette
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.checkpoint_network import CheckpointNetwork
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.mmseg_versions import find_normalization, get_part
from rmrkd_cli.presets.loader import dataset_preset
from rmrkd_cli.presets.schema import Preset

_MAX_NAME = 200  # characters of a class name; checkpoints are untrusted
_MAX_SIDE = 16_384

Scale = tuple[int, int]


@dataclass(frozen=True)
class ModelCard:
    """The classes of a network and the images it expects.

    Attributes:
        classes: Class names, as many as the network predicts.
        palette: One RGB colour per class.
        scale: (width, height) that images are fitted into; None if unknown.
        dataset: Name of the data set; None if unknown.
        max_value: The value of white in images beyond 8 bits; None: they are refused.
        notes: Warnings: what is missing in the checkpoint, and where its config differs from rmrkd.
    """

    classes: tuple[str, ...]
    palette: Palette
    scale: Scale | None
    dataset: str | None
    max_value: float | None = None
    notes: tuple[str, ...] = ()


def model_card(model: CheckpointNetwork, *, dataset: str | None = None, scale: Scale | None = None) -> ModelCard:
    """Return the model card of a checkpoint; the arguments override the checkpoint.

    Args:
        dataset: Take class names, colours and image size from this built-in data set.
        scale: (width, height) that images are fitted into.

    Raises:
        RmrkdError: The data set and the network differ in their number of classes, or `dataset` is `custom`.
    """
    meta, count = model.checkpoint.meta, adapter_of(model.network).num_classes
    notes = [
        *filter(None, [model.checkpoint.note]),
        *find_config_differences(meta.get("config"), adapter_of(model.network).normalization),
    ]
    max_value = model.preset.data.max_value if model.preset is not None else None
    if dataset is not None:
        info = _builtin_dataset(dataset)
        if info.num_classes != count:
            raise RmrkdError(
                f"`{model.checkpoint.path}` predicts {count} classes, `{dataset}` has {info.num_classes}",
                "name the data set it was trained on, or leave out --dataset",
            )
        return ModelCard(info.classes, info.palette, scale or info.eval_scale, dataset, max_value, tuple(notes))
    preset = _preset_dataset(model.preset)
    matching = preset if preset is not None and preset.num_classes == count else None
    classes = _class_names(meta.get("CLASSES"), count) or (matching.classes if matching is not None else None)
    palette = _palette(meta.get("PALETTE"), count) or (matching.palette if matching is not None else None)
    scale = scale or (preset.eval_scale if preset is not None else None) or _scale_of(meta)
    if classes is None:
        notes.append("the checkpoint has no class names: the classes are numbered")
        classes = tuple(f"class {number}" for number in range(count))
    if scale is None:
        notes.append("the checkpoint has no image size: images keep their own size; --scale WxH sets it")
    own = meta.get("dataset")
    name = own if isinstance(own, str) else (preset.name if preset is not None else None)
    return ModelCard(classes, palette or distinct_palette(count), scale, name, max_value, tuple(notes))


def find_config_differences(text: object, used: Normalization) -> list[str]:
    """Return a message for each way in which an mmsegmentation config prepares images differently from rmrkd.

    Args:
        text: The config.
        used: How rmrkd normalizes images for the network.
    """
    config, messages = _parse_config(text), []
    normalization = find_normalization(config)
    if normalization is not None and not normalization.matches(used):
        messages.append(f"its config normalizes images by {normalization}, rmrkd by {used}: predictions may be wrong")
    if get_part(config, "model", "test_cfg", "mode") == "slide":
        messages.append("its config uses a sliding window: `predict --mode slide` does the same, exported files do not")
    return messages


def _builtin_dataset(dataset: str) -> DatasetInfo:
    if dataset == "custom":
        raise RmrkdError(
            "--dataset custom has no class names: they are in the preset", "use --preset FILE instead of --dataset"
        )
    return dataset_info(dataset_preset(dataset))


def _preset_dataset(preset: Preset | None) -> DatasetInfo | None:
    """Return the data set of a preset, wherever its images are; None if the preset is incomplete."""
    if preset is None:
        return None
    try:
        return dataset_without_images(preset)
    except RmrkdError:
        return None


def _class_names(value: object, count: int) -> tuple[str, ...] | None:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        return None
    names = tuple(name[:_MAX_NAME] for name in value)
    return names if len(names) == len(set(names)) == count else None  # results are listed by name


def _palette(value: object, count: int) -> Palette | None:
    if not isinstance(value, (list, tuple)) or len(value) != count:
        return None
    if not all(_is_integer_list(colour, 3, 0, 255) for colour in value):
        return None
    return tuple((colour[0], colour[1], colour[2]) for colour in value)


def _scale_of(meta: Mapping[str, Any]) -> Scale | None:
    """Return the image size of a file that `rmrkd export` wrote, or of a config of mmsegmentation."""
    exported = meta.get("scale")
    if isinstance(exported, list) and _is_integer_list(exported, 2, 1, _MAX_SIDE):
        return int(exported[0]), int(exported[1])
    return _config_scale(meta.get("config"))


def _config_scale(text: object) -> Scale | None:
    """Return the image size of the test pipeline in a config of mmsegmentation 0.x or 1.x."""
    config = _parse_config(text)
    for steps in (get_part(config, "data", "test", "pipeline"), config.get("test_pipeline")):
        for step in steps if isinstance(steps, (list, tuple)) else ():
            for key in ("img_scale", "scale"):
                scale = step.get(key) if isinstance(step, Mapping) else None
                if isinstance(scale, (list, tuple)) and _is_integer_list(scale, 2, 1, _MAX_SIDE):
                    return int(scale[0]), int(scale[1])
    return None


def _is_integer_list(value: object, length: int, low: int, high: int) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != length:
        return False
    return all(type(item) is int and low <= item <= high for item in value)


def _parse_config(text: object) -> dict[str, Any]:
    """Return an mmsegmentation config as a dict; empty if it cannot be parsed."""
    try:
        return parse_config_text(text) if isinstance(text, str) else {}
    except RmrkdError:
        return {}
