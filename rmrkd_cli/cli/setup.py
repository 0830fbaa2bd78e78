"""`rmrkd setup`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rmrkd_cli.cli.command import option
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.output_paths import check_free_folder

_GROUP = "Options"


def setup_command(
    source: Annotated[
        Path | None,
        option(
            "--from",
            _GROUP,
            "Install from the files in this folder, without a network (see --download).",
            metavar="DIR",
        ),
    ] = None,
    download: Annotated[
        Path | None,
        option(
            "--download",
            _GROUP,
            "Write the files into a new folder, for a machine without a network, and install nothing.",
            metavar="DIR",
        ),
    ] = None,
    reinstall: Annotated[
        bool, option("--reinstall", _GROUP, "Install mmcv-full, mmsegmentation and mmcls again.")
    ] = False,
    dry_run: Annotated[
        bool, option("--dry-run", _GROUP, "Print what would be installed, and install nothing.")
    ] = False,
) -> None:
    """Install mmsegmentation and mmcv-full into this Python environment, and check that they work.

    Versions are pinned and no operator is compiled. Installed packages such as torch and numpy stay as they are.

    Examples:
        rmrkd setup
        rmrkd setup --download wheels
    """
    from rmrkd_cli.doctor.demo_network import build_demo_student
    from rmrkd_cli.installation.setup import download as download_wheels
    from rmrkd_cli.installation.setup import set_up
    from rmrkd_cli.terminal import console, messages

    if download is not None:
        if source is not None or dry_run or reinstall:
            raise RmrkdError("--download installs nothing and excludes the other options", "rmrkd setup --download DIR")
        check_free_folder(download)
        for file in download_wheels(download, messages.log):
            console.print_line(str(file))
        return
    if source is not None and not source.is_dir():
        raise RmrkdError(
            f"`--from {source}` is not a folder", "rmrkd setup --download DIR, on a machine with a network, writes one"
        )
    set_up(messages.log, source=source, dry_run=dry_run, reinstall=reinstall)
    if not dry_run:
        console.print_line(f"mmsegmentation works: built the demo's student, {build_demo_student():,} parameters")
