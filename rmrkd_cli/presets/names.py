"""The names of presets, methods and data sets, without reading a file's contents.

It imports nothing but the standard library, so that shell completion answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

DatasetName = Literal["cityscapes", "voc12aug", "camvid", "ade20k", "demo", "custom"]
DATASETS: tuple[DatasetName, ...] = get_args(DatasetName)
DATASET_ALIASES = {"city": "cityscapes", "voc": "voc12aug", "ade": "ade20k"}
OWN_METHOD = "rmrkd"  # the method name for the losses that a preset lists


def preset_dir() -> Path:
    """Return the folder of the presets that come with rmrkd, in a wheel or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "_presets"
    return packed if packed.is_dir() else package.parent / "presets"


def preset_names() -> list[str]:
    """Return the names of all presets that come with rmrkd."""
    return sorted(path.stem for path in preset_dir().glob("*.yaml"))


def method_names() -> list[str]:
    """Return the names that `--method` accepts; `rmrkd` selects the preset's losses."""
    return sorted({OWN_METHOD, *(path.stem for path in (preset_dir() / "methods").glob("*.yaml"))})


def recipe_names() -> list[str]:
    """Return the names that `--recipe` accepts."""
    return sorted(path.stem for path in (preset_dir() / "recipes").glob("*.yaml"))
