"""Options that several commands share, and what becomes of their values."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from rmrkd_cli.errors import RmrkdError, did_you_mean


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


DataRoot = Annotated[str | None, typer.Option("--data-root", metavar="DIR", help="Folder of the data set.")]
Gpus = Annotated[
    int | None,
    typer.Option("--gpus", min=1, metavar="N", help="Worker processes here: a GPU each, or a CPU process each."),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute.")]
JsonOut = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON; - for stdout alone.")
]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Load what fits of weights that do not cover the network.")
]


def dataset_name(given: str | None) -> str | None:
    """The data set's own name, from an alias or the name itself.

    Raises:
        RmrkdError: With the nearest name, when there is no such data set.
    """
    from rmrkd_cli.schema import DATASET_ALIASES, DATASETS

    if given is None:
        return None
    name = DATASET_ALIASES.get(given, given)
    if name not in DATASETS:
        raise RmrkdError(
            f"unknown data set `{given}`, {did_you_mean(given, [*DATASETS, *DATASET_ALIASES])}", "rmrkd presets"
        )
    return name


def check_free_folder(folder: Path | None) -> None:
    """Raises RmrkdError unless the folder is empty, or still to be made."""
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise RmrkdError(f"`{folder}` {what}, and nothing is overwritten", "choose another folder")


def write_json(contents: Any, target: str) -> None:
    """Results as JSON, into a file or (`-`) on stdout; one record alone is not wrapped in a list."""
    from rmrkd_cli import console
    from rmrkd_cli.checkpoint import write_text
    from rmrkd_cli.report import to_json

    alone = contents[0] if isinstance(contents, list) and len(contents) == 1 else contents
    if target == "-":
        console.write(to_json(alone))
    else:
        write_text(to_json(alone), Path(target))
