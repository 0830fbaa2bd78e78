"""`rmrkd transfer`"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from rmrkd_cli.cli.command import option
from rmrkd_cli.cli.options import OUTPUT
from rmrkd_cli.errors import RmrkdError


class Format(str, Enum):
    pth = "pth"
    safetensors = "safetensors"


def transfer_command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Read this distiller checkpoint, your own or a released one.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Write the student into this new file.")],
    file_format: Annotated[
        Format | None,
        option("--format", OUTPUT, "Write this file format.", default="safetensors if OUT ends so, else pth"),
    ] = None,
    force: Annotated[bool, option("--force", OUTPUT, "Replace OUT if it exists.")] = False,
    config: Annotated[
        Path | None,
        option("--config", OUTPUT, "Write the mmsegmentation config of IN into a new file too.", metavar="FILE.py"),
    ] = None,
    without_config: Annotated[
        bool, option("--without-config", OUTPUT, "Write OUT without the mmsegmentation config of IN.")
    ] = False,
) -> None:
    """Extract the student from a distiller checkpoint, as a plain mmsegmentation file.

    Examples:
        rmrkd transfer work_dirs/demo/distill/last.pth student.pth
        rmrkd transfer released.pth student.safetensors --config student.py
    """
    from rmrkd_cli.terminal import console

    if config is not None and without_config:
        raise RmrkdError("--config and --without-config exclude each other", "leave out one of them")
    from rmrkd_cli.checkpoints.transfer import transfer

    chosen = file_format or (Format.safetensors if target.suffix == ".safetensors" else Format.pth)
    count, size = transfer(source, target, chosen.value, force=force, config=config, without_config=without_config)
    console.print_line(f"{target}: {count} tensors, {size / 1e6:.2f} M values")
    if config is not None:
        console.print_line(f"{config}: the mmsegmentation config")
