"""Options that several commands share, and what becomes of their values."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from rmrkd_cli.cli.usage_errors import cut
from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.storage.output_paths import check_new_file

_SIDES = (32, 16_384)  # pixels


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def _root(given: str | None) -> str | None:
    """Raises RmrkdError for a folder that no data set can have."""
    check_recordable(given, "--data-root")
    if given is not None and given.startswith("~") and not given.startswith("~/") and given != "~":
        raise RmrkdError(f"`--data-root {cut(given)}`: `~` must be followed by `/`", "write the folder out")
    if given == "":
        raise RmrkdError("`--data-root` is empty", "--data-root DIR")
    return given


DataRoot = Annotated[
    str | None, typer.Option("--data-root", metavar="DIR", callback=_root, help="Folder of the data set.")
]
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus", min=1, max=1024, metavar="N", help="Worker processes here: a GPU each, or a CPU process each."
    ),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute.")]
JsonOut = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the results as JSON into a new file; - for stdout alone."),
]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Load what fits of weights that do not cover the network.")
]


def dataset_name(given: str | None) -> str | None:
    """The data set's own name, from an alias or the name itself.

    Raises:
        RmrkdError: With the nearest name, when there is no such data set.
    """
    from rmrkd_cli.presets.schema import DATASET_ALIASES, DATASETS

    if given is None:
        return None
    name = DATASET_ALIASES.get(given, given)
    if name not in DATASETS:
        raise RmrkdError(
            f"unknown data set `{given}`, {did_you_mean(given, [*DATASETS, *DATASET_ALIASES])}", "rmrkd presets"
        )
    return name


def image_scale(given: str | None) -> tuple[int, int] | None:
    """(width, height) of `WxH`.

    Raises:
        RmrkdError: When it is none, or a side is not 32 to 16384 pixels.
    """
    if given is None:
        return None
    found = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", given, re.ASCII)
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(_SIDES[0] <= side <= _SIDES[1] for side in sides):
        raise RmrkdError(
            f"--scale `{cut(given)}` must be WIDTHxHEIGHT, each from {_SIDES[0]} to {_SIDES[1]}", "--scale 1024x512"
        )
    return sides


def check_inputs(paths: Iterable[Path]) -> None:
    """Raises RmrkdError for the first file or folder that is not there, before anything is loaded."""
    for path in paths:
        if not path.exists():
            raise RmrkdError(f"`{path}` does not exist", "name images, videos, or folders of them")


def check_recordable(path: Path | str | None, option: str) -> None:
    """Raises RmrkdError for a path that a preset, where it will be written down, could not hold."""
    from rmrkd_cli.terminal.sanitize import first_control

    text = str(path or "")
    longest = max(len(os.fsencode(part)) for part in text.split("/"))
    if first_control(text) is not None:
        why = f"holds the character {first_control(text)}"
    elif len(text) > 3000:
        why = f"has {len(text)} characters, at most 3000 are possible"
    elif longest > 255:
        why = f"has a part of {longest} bytes, at most 255 are possible"
    else:
        return
    raise RmrkdError(f"`{option} {cut(text)}` {why}", "choose another folder")


def check_json_out(target: str | None) -> None:
    """As `check_new_file`; `-` is stdout."""
    if target is not None and target != "-":
        check_new_file(Path(target))


def write_json(contents: Any, target: str) -> None:
    """Results as JSON, into a file or (`-`) on stdout; one record alone is not wrapped in a list.

    Raises:
        RunError: When the file cannot be written.
    """
    from rmrkd_cli.results.record import to_json
    from rmrkd_cli.storage.atomic import write_text
    from rmrkd_cli.terminal import console

    text = to_json(contents[0] if isinstance(contents, list) and len(contents) == 1 else contents)
    if target == "-":
        console.write(text)
    else:
        write_text(text, Path(target))
