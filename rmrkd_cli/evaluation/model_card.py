"""What the users of a network have to know, from its checkpoint alone: classes, colours, size of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmrkd_cli.checkpoints.safety.mmseg_config import parse_config_text
from rmrkd_cli.data.datasets import DatasetInfo, Palette, dataset_info, generated_palette
from rmrkd_cli.data.transforms import NORMALIZE
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.checkpoint_network import CheckpointNetwork
from rmrkd_cli.presets.schema import Preset

_MOST_NAME = 200  # characters of a class name; files are strangers'
_LARGEST_SIDE = 16_384
_PREPROCESSOR = "SegDataPreProcessor"  # of mmsegmentation 1, which does not turn channels unless it is told to
_SAME = 0.5  # of 255, by which a mean or deviation may be written otherwise

_OURS: tuple[list[float], list[float], bool] = (NORMALIZE["mean"], NORMALIZE["std"], True)  # type: ignore[assignment]

Scale = tuple[int, int]


@dataclass(frozen=True)
class ModelCard:
    """A network's classes and what it expects.

    Attributes:
        classes: Names, as many as the network tells apart.
        palette: A colour each, red first.
        scale: (width, height) that images are fitted into; None where nothing says so.
        dataset: Name, where it is known.
        notes: What was not in the file and had to be made up, and what the file wants and does not get, in words.
    """

    classes: tuple[str, ...]
    palette: Palette
    scale: Scale | None
    dataset: str | None
    notes: tuple[str, ...] = ()


def model_card(loaded: CheckpointNetwork, *, dataset: str | None = None, scale: Scale | None = None) -> ModelCard:
    """From the checkpoint; what the caller names comes first.

    Args:
        dataset: Whose names, colours and size to take.
        scale: (width, height) to take.

    Raises:
        RmrkdError: When the data set has another number of classes than the network.
    """
    meta, count = loaded.checkpoint.meta, int(loaded.network.num_classes)  # type: ignore[arg-type]
    notes = other_ways(meta.get("config"))
    if dataset is not None:
        info = _named(dataset)
        if info.num_classes != count:
            raise RmrkdError(
                f"`{loaded.checkpoint.path}` tells {count} classes apart, `{dataset}` has {info.num_classes}",
                "leave out --dataset, or name the one it was trained on",
            )
        return ModelCard(info.classes, info.palette, scale or info.eval_scale, dataset, tuple(notes))
    preset = _known(loaded.preset)
    fits = preset is not None and preset.num_classes == count
    classes = _names(meta.get("CLASSES"), count) or (preset.classes if preset is not None and fits else None)
    palette = _colours(meta.get("PALETTE"), count) or (preset.palette if preset is not None and fits else None)
    scale = scale or (preset.eval_scale if preset is not None else None) or _scale_of_config(meta.get("config"))
    if classes is None:
        notes.append("it does not name its classes: they are numbered")
        classes = tuple(f"class {number}" for number in range(count))
    if scale is None:
        notes.append("it does not say how large its images are: they are taken as they are")
    own = meta.get("dataset")
    name = own if isinstance(own, str) else (preset.name if preset is not None else None)
    return ModelCard(classes, palette or generated_palette(count), scale, name, tuple(notes))


def _named(dataset: str) -> DatasetInfo:
    if dataset == "custom":
        raise RmrkdError(
            "the names of a data set of your own stand in its preset", "--preset FILE instead of --dataset custom"
        )
    return dataset_info(
        Preset.model_validate({"dataset": dataset, "teacher": {"config": "none"}, "student": {"config": "none"}})
    )


def _known(preset: Preset | None) -> DatasetInfo | None:
    """A preset's data set, wherever its images are, or nothing where it lacks what is needed."""
    if preset is None:
        return None
    if preset.dataset == "custom":
        preset = preset.model_copy(update={"data": preset.data.model_copy(update={"root": "."})})
    try:
        return dataset_info(preset)
    except RmrkdError:
        return None


def _names(found: object, count: int) -> tuple[str, ...] | None:
    if not isinstance(found, (list, tuple)) or not all(isinstance(name, str) for name in found):
        return None
    names = tuple(name[:_MOST_NAME] for name in found)
    return names if len(names) == len(set(names)) == count else None  # results are listed by name


def _colours(found: object, count: int) -> Palette | None:
    if not isinstance(found, (list, tuple)) or len(found) != count:
        return None
    if not all(_is_row(colour, 3, 0, 255) for colour in found):
        return None
    return tuple((colour[0], colour[1], colour[2]) for colour in found)


def _scale_of_config(text: object) -> Scale | None:
    """`img_scale` of the test pipeline in mmsegmentation's config."""
    part = _part_of(_config(text), "data", "test", "pipeline")
    for step in part if isinstance(part, (list, tuple)) else ():
        scale = step.get("img_scale") if isinstance(step, Mapping) else None
        if isinstance(scale, (list, tuple)) and _is_row(scale, 2, 1, _LARGEST_SIDE):
            return int(scale[0]), int(scale[1])
    return None


def other_ways(text: object) -> list[str]:
    """Where the config inside prepares or shows images otherwise than it is done here."""
    config, told = _config(text), []
    for key in (("data", "test"), ("data", "val"), ("test_pipeline",), ("img_norm_cfg",), ("data_preprocessor",),
                ("model", "data_preprocessor"), ("data", "train")):  # fmt: skip
        found = _normalisation(_part_of(config, *key))
        if found is not None:
            if not _are_ours(*found):
                told.append(
                    f"its config prepares images by {_rows(*found)}; here they get {_rows(*_OURS)}, and its classes "
                    "may come out wrong"
                )
            break
    if _part_of(config, "model", "test_cfg", "mode") == "slide":
        told.append("its config slides a window over images, and here it sees them whole")
    return told


def _normalisation(part: object) -> tuple[list[float], list[float], bool] | None:
    """The first mean and deviation of three channels in a part of a config, and whether red is the first of them."""
    if isinstance(part, Mapping):
        rows = [part.get("mean"), part.get("std")]
        if all(isinstance(row, (list, tuple)) and len(row) == 3 and all(map(_is_number, row)) for row in rows):
            mean, std = ([float(value) for value in row] for row in rows if row is not None)
            turned = part.get("to_rgb", True) if part.get("type") != _PREPROCESSOR else part.get("bgr_to_rgb", False)
            return mean, std, bool(turned)
    inner = part.values() if isinstance(part, Mapping) else part if isinstance(part, (list, tuple)) else ()
    return next((found for each in inner if (found := _normalisation(each)) is not None), None)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def _are_ours(mean: Sequence[float], std: Sequence[float], red_first: bool) -> bool:
    pairs = [*zip(mean, _OURS[0], strict=True), *zip(std, _OURS[1], strict=True)]
    return red_first and all(abs(value - ours) <= _SAME for value, ours in pairs)


def _rows(mean: Sequence[float], std: Sequence[float], red_first: bool) -> str:
    means, deviations = (", ".join(f"{value:g}" for value in row) for row in (mean, std))
    return f"mean {means} and deviation {deviations}, {'red' if red_first else 'blue'} first"


def _config(text: object) -> dict[str, Any]:
    """What mmsegmentation's config says, empty where it cannot be read."""
    try:
        return parse_config_text(text) if isinstance(text, str) else {}
    except RmrkdError:
        return {}


def _part_of(part: Any, *keys: str) -> Any:
    for key in keys:
        part = part.get(key) if isinstance(part, Mapping) else None
    return part


def _is_row(found: object, length: int, least: int, most: int) -> bool:
    if not isinstance(found, (list, tuple)) or len(found) != length:
        return False
    return all(type(value) is int and least <= value <= most for value in found)
