"""Write the preset of a folder of images and masks, with comments that say what was found and assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rmrkd_cli.data.init.folder_preset import FolderPreset
from rmrkd_cli.presets.safe_yaml import PlainDumper, parse_yaml
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.presets.validation import validate
from rmrkd_cli.terminal.sanitize import escape_control

_MAX_SIDE = 2048  # of the size that images are fitted into
_CROP, _STEP = 512, 32  # largest side of a crop, and what the sides are a multiple of
_BATCH_PIXELS = 8 * 512 * 512  # of a batch: eight crops of 512x512
_MIN_BATCH, _MAX_BATCH = 2, 16  # DeepLabV3 cannot train on one image
_EPOCHS, _MIN_ITERS, _MAX_ITERS = 80, 2000, 40_000
_INTERVALS = 10  # validations of a run
_WIDTH = 110  # columns of a list in YAML

_NETWORKS = """\
role: all  # trains the teacher on your data first, then the student without and with it
teacher: {library: torchvision, name: deeplabv3_resnet50, weights: IMAGENET1K_V2}
student: {library: torchvision, name: lraspp_mobilenet_v3_large, weights: IMAGENET1K_V2}
method: cwd  # rmrkd methods lists the others
losses:
  cwd: {type: cwd, stage: logits, weight: auto}
"""


def preset_text(found: FolderPreset, out: Path) -> str:
    """Return the preset as YAML.

    Args:
        out: The file that it is for.

    Raises:
        RmrkdError: It would be invalid, as with a class name that contains control characters.
    """
    text = "\n".join(_lines(found, out))
    raw = parse_yaml(text, f"`{out}`")
    assert isinstance(raw, dict)
    validate(Preset, raw, out)
    return text


def describe_sizes(sizes: Counter[tuple[int, int]]) -> str:
    """Return the sizes of images in words, such as `640x480`."""
    (most, _), count = sizes.most_common(1)[0], sum(sizes.values())
    if len(sizes) == 1:
        return f"{most[0]}x{most[1]}"
    widths, heights = zip(*sizes, strict=True)
    return f"{min(widths)}x{min(heights)} to {max(widths)}x{max(heights)}, mostly {most[0]}x{most[1]} ({count} read)"


def _lines(found: FolderPreset, out: Path) -> Iterator[str]:
    yield f"# rmrkd train --preset {escape_control(out)}"
    yield f"# Written by rmrkd init {escape_control(found.root)}. All keys: docs/preset-keys.md"
    if found.assumed:
        yield "# Assumed, please check:"
        yield from (f"#   - {escape_control(text)}" for text in found.assumed)
    yield "dataset: custom"
    yield "data:"
    yield f"  root: {_flow(str(found.root))}"
    origin = escape_control(found.names_file) or "the values in the masks"
    yield f"  classes: {_flow(found.labels.classes)}  # from {origin}"
    if found.labels.palette:
        yield f"  palette: {_flow([list(colour) for colour in found.labels.palette])}"
    for split, part in found.pairs.parts.items():
        keys = {"images": part.images, "labels": part.labels} | ({"names": part.list} if part.list else {})
        yield f"  {split}: {_flow(keys)}  # {len(part.names)} images"
    yield f"  image_suffix: {_flow(found.pairs.image_suffix)}"
    yield f"  label_suffix: {_flow(found.pairs.label_suffix)}"
    yield f"  ignore_labels: {_flow(found.labels.ignored)}"
    if found.max_value is not None:
        yield f"  max_value: {found.max_value:.10g}  # the value of white; images are not of 8 bits"
    scale = _scale(found.sizes)
    yield f"  train_scale: {_flow(list(scale))}  # width, height that images are fitted into; found: " + describe_sizes(
        found.sizes
    )
    yield from _NETWORKS.splitlines()
    yield from _schedule(scale, len(found.pairs.parts["train"].names))
    yield ""


def _schedule(scale: tuple[int, int], images: int) -> Iterator[str]:
    crop = [_crop_side(scale[1]), _crop_side(scale[0])]
    batch = max(_MIN_BATCH, min(_MAX_BATCH, _BATCH_PIXELS // (crop[0] * crop[1])))
    iters = max(_MIN_ITERS, min(_MAX_ITERS, round(_EPOCHS * images / batch / 100) * 100))
    yield "schedule:"
    yield f"  iters: {iters}  # {iters * batch / images:.0f} times each of the {images} training images"
    yield f"  crop: {_flow(crop)}  # height, width"
    yield f"  batch_size: {batch}  # per GPU; halve it if memory does not suffice"
    yield f"  eval_interval: {iters // _INTERVALS}"
    yield f"  checkpoint_interval: {iters // _INTERVALS}"


def _scale(sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    """Return the most frequent size, reduced if it is very large."""
    (width, height), _ = sizes.most_common(1)[0]
    factor = min(1.0, _MAX_SIDE / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _crop_side(side: int) -> int:
    return min(_CROP, max(_STEP, side // _STEP * _STEP))


def _flow(value: Any) -> str:
    text = yaml.dump(
        value, Dumper=PlainDumper, default_flow_style=True, width=_WIDTH, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...").replace("\n", "\n   ")
