"""Options that several commands share, and the checks of their values."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from rmrkd_cli.cli.command import option
from rmrkd_cli.cli.completion import complete_dataset, complete_preset
from rmrkd_cli.cli.usage_errors import shorten_value
from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.storage.output_paths import check_new_file

# Groups of options in the help.
DATA, NETWORK, INFERENCE, DEVICES, OUTPUT = "Data", "Network", "Inference", "Devices", "Output"

# Help of options that only some of the commands declare alike.
LOADER_PROCESSES = "Read images in N loader processes per GPU."
LOAD_MATCHING = "Load the matching tensors of a checkpoint that does not match the network; the rest stays random."

_MIN_SIDE, _MAX_SIDE = 32, 16_384  # pixels
_MAX_PATH, _MAX_PATH_PART = 3000, 255  # characters, bytes


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def _check_folder(folder: str | None, name: str) -> str | None:
    """Return a folder if a preset can have it."""
    check_recordable(folder, name)
    if folder == "":
        raise RmrkdError(f"`{name}` is empty", f"{name} DIR")
    if folder is not None and folder.startswith("~") and not folder.startswith("~/") and folder != "~":
        raise RmrkdError(f"`{name} {shorten_value(folder)}`: `~` must be followed by `/`", "write the full path")
    return folder


def absolute_path(folder: str | None) -> str | None:
    """Return the absolute path of a folder that the command line names; None for None."""
    return os.path.abspath(os.path.expanduser(folder)) if folder is not None else None


DataRoot = Annotated[
    str | None,
    option(
        "--data-root",
        DATA,
        "Read the images from this folder.",
        default="the data set's own, such as data/cityscapes",
        metavar="DIR",
        callback=lambda folder: _check_folder(folder, "--data-root"),
    ),
]
Unlabelled = Annotated[
    str | None,
    option(
        "--unlabelled",
        DATA,
        "Use the images below this folder too; they have no label maps.",
        default="the preset's, usually none",
        metavar="DIR",
        callback=lambda folder: _check_folder(folder, "--unlabelled"),
    ),
]
DatasetOption = Annotated[
    str | None,
    option(
        "--dataset",
        DATA,
        "Use this data set.",
        default="the checkpoint's",
        metavar="NAME",
        autocompletion=complete_dataset,
    ),
]
NetworkPreset = Annotated[
    str | None,
    option(
        "--preset",
        NETWORK,
        "Take the network from this preset if the checkpoint does not describe it (list: rmrkd presets).",
        metavar="NAME|FILE",
        autocompletion=complete_preset,
    ),
]
Code = Annotated[
    list[str] | None,
    option("--code", NETWORK, "Let this Python file run, which builds the network; repeatable.", metavar="FILE"),
]
AllowPartial = Annotated[bool, option("--allow-partial", NETWORK, LOAD_MATCHING)]
Flip = Annotated[bool, option("--flip", INFERENCE, "Average with the prediction of the mirrored image.")]
Scales = Annotated[
    str,
    option(
        "--scales", INFERENCE, "Average the predictions at these image scales, such as 0.5,1.0,1.5.", metavar="LIST"
    ),
]
DeviceOption = Annotated[
    Device, option("--device", DEVICES, "Compute on this device; auto takes a GPU if there is one.")
]
BatchSize = Annotated[
    int | None,
    option(
        "--batch-size",
        DEVICES,
        "Predict N images of equal size at once in each worker.",
        default="1 on CPUs, up to 4 on GPUs",
        min=1,
        max=1024,
    ),
]
LoaderWorkers = Annotated[
    int | None,
    option("--workers", DEVICES, LOADER_PROCESSES, default="from the machine's cores", min=0, max=256),
]
Gpus = Annotated[
    int | None,
    option(
        "--gpus",
        DEVICES,
        "Start N worker processes on this machine, one for each GPU. With --device cpu, they share the CPUs.",
        default="1",
        min=1,
        max=1024,
    ),
]
JsonOut = Annotated[
    str | None,
    option(
        "--json",
        OUTPUT,
        "Write the results as JSON into a new file, or with `-` to stdout instead of the tables.",
        metavar="FILE",
    ),
]


def dataset_name(text: str | None) -> str | None:
    """Return the name of a data set from its name or its alias.

    Raises:
        RmrkdError: If there is no such data set; it names the most similar one.
    """
    from rmrkd_cli.presets.schema import DATASET_ALIASES, DATASETS

    if text is None:
        return None
    name = DATASET_ALIASES.get(text, text)
    if name not in DATASETS:
        raise RmrkdError(
            f"unknown data set `{shorten_value(text)}`, {did_you_mean(text, [*DATASETS, *DATASET_ALIASES])}",
            "rmrkd presets",
        )
    return name


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """Return (width, height) of `WIDTHxHEIGHT`.

    Raises:
        RmrkdError: If the text has another form, or a side is not 32 to 16384 pixels.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text, re.ASCII)
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(_MIN_SIDE <= side <= _MAX_SIDE for side in sides):
        raise RmrkdError(
            f"--scale `{shorten_value(text)}` must be WIDTHxHEIGHT, each from {_MIN_SIDE} to {_MAX_SIDE}",
            "--scale 1024x512",
        )
    return sides


def check_inputs(paths: Iterable[Path]) -> None:
    """Raise RmrkdError for the first path that does not exist."""
    for path in paths:
        if not path.exists():
            raise RmrkdError(f"`{path}` does not exist", "name images, videos, or folders of them")


def check_recordable(path: Path | str | None, option: str) -> None:
    """Raise RmrkdError for a path that a preset file cannot contain; a run writes its preset into its folder."""
    from rmrkd_cli.terminal.sanitize import first_control

    text = str(path or "")
    longest_part = max(len(os.fsencode(part)) for part in text.split("/"))
    if first_control(text) is not None:
        problem = f"contains the character {first_control(text)}"
    elif len(text) > _MAX_PATH:
        problem = f"has {len(text)} characters, at most {_MAX_PATH} are allowed"
    elif longest_part > _MAX_PATH_PART:
        problem = f"has a part of {longest_part} bytes, at most {_MAX_PATH_PART} are allowed"
    else:
        return
    raise RmrkdError(f"`{option} {shorten_value(text)}` {problem}", "choose another folder")


def check_json_out(target: str | None, *, force: bool | None = None, inputs: Iterable[Path] = ()) -> None:
    """Raise RmrkdError if `--json` names a file that cannot be created, or one of `inputs`; `-` is stdout."""
    if target is not None and target != "-":
        check_new_file(Path(target), force=force, inputs=inputs)


def write_json(contents: Any, target: str) -> None:
    """Write results as JSON to a new file, or to stdout if the target is `-`. A list of one record becomes the record.

    Raises:
        RunError: If the file cannot be written.
    """
    from rmrkd_cli.results.record import to_json
    from rmrkd_cli.storage.atomic import write_text
    from rmrkd_cli.terminal import console

    text = to_json(contents[0] if isinstance(contents, list) and len(contents) == 1 else contents)
    if target == "-":
        console.print_text(text)
    else:
        write_text(text, Path(target))
