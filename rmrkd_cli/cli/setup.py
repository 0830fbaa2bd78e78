"""`rmrkd setup`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.output_paths import check_free_folder


def setup_command(
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="DIR", help="Install from the files in this folder, without a network (see --download)."
        ),
    ] = None,
    download: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Install nothing; write the files into a new folder, for a machine without a network."
        ),
    ] = None,
    reinstall: Annotated[
        bool,
        typer.Option("--reinstall", help="Install mmcv-full, mmsegmentation and mmcls again."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be installed, and install nothing.")
    ] = False,
) -> None:
    """Install mmsegmentation and mmcv-full into this Python environment, and check that they work.

    Versions are pinned and no operator is compiled. Installed packages such as torch and numpy stay as they are.

    Example: rmrkd setup
    """
    from rmrkd_cli.doctor.demo_network import build_demo_student
    from rmrkd_cli.installation.setup import download as write_wheels
    from rmrkd_cli.installation.setup import set_up
    from rmrkd_cli.terminal import console

    if download is not None:
        if source is not None or dry_run or reinstall:
            raise RmrkdError("--download installs nothing and goes with no other option", "rmrkd setup --download DIR")
        check_free_folder(download)
        for file in write_wheels(download, console.say):
            console.write_line(str(file))
        return
    if source is not None and not source.is_dir():
        raise RmrkdError(
            f"`--from {source}` is not a folder", "rmrkd setup --download DIR makes one, where there is a network"
        )
    set_up(console.say, source=source, dry_run=dry_run, reinstall=reinstall)
    if not dry_run:
        console.write_line(f"mmsegmentation works: built the demo's student, {build_demo_student():,} parameters")
