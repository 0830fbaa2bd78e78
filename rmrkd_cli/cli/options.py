"""Options that several commands share, and the checks of their values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from rmrkd_cli.cli.command import option
from rmrkd_cli.cli.completion import complete_dataset, complete_preset
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.output_paths import check_new_file, check_recordable
from rmrkd_cli.terminal.text import shorten_value

# Groups of options in the help.
DATA, NETWORK, INFERENCE, METRICS = "Data", "Network", "Inference", "Metrics"
DEVICES, OUTPUT = "Devices", "Output"

# Help of options that only some of the commands declare alike.
LOADER_PROCESSES = "Read images in N loader processes per GPU."
LOAD_MATCHING = "Load the matching tensors of a checkpoint that does not match the network; the rest stays random."

_MIN_SIDE, _MAX_SIDE = 32, 16_384  # pixels


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
