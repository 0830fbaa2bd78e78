"""`rmrkd transfer`"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from rmrkd_cli.errors import RmrkdError


class Format(str, Enum):
    pth = "pth"
    safetensors = "safetensors"


def transfer_command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A distiller's checkpoint, ours or a released one.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Where the student is written.")],
    form: Annotated[
        Format | None, typer.Option("--format", help="(default: safetensors where OUT ends so, else pth)")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.")] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.py", help="Also write the mmsegmentation config it holds.")
    ] = None,
    without_config: Annotated[
        bool, typer.Option("--without-config", help="Leave the config that IN holds out of OUT.")
    ] = False,
) -> None:
    """Take the student out of a distiller's checkpoint, as a plain mmsegmentation file."""
    from rmrkd_cli.terminal import console

    chosen = form or (Format.safetensors if target.suffix == ".safetensors" else Format.pth)
    if config is not None and without_config:
        raise RmrkdError("--config and --without-config exclude each other")
    from rmrkd_cli.checkpoints.transfer import transfer

    count, size = transfer(source, target, chosen.value, force=force, config=config, without_config=without_config)
    console.write_line(f"{target}: {count} tensors, {size / 1e6:.2f} M values")
    if config is not None:
        console.write_line(f"{config}: its mmsegmentation config")
