"""`rmrkd export --hub`: write a folder for the Hugging Face hub, and print how to upload it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rmrkd_cli.cli.command import option

if TYPE_CHECKING:
    from rmrkd_cli.exporters.hub import HubFolder

HUB = "Hugging Face"

HubOption = Annotated[
    Path | None,
    option(
        "--hub",
        HUB,
        "Write weights, config, preprocessing and a model card into this new folder, and OUT if it is given.",
        default="no folder",
        metavar="DIR",
    ),
]


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def print_hub(written: HubFolder) -> None:
    """Print the files of the folder, and the command that uploads it."""
    from rmrkd_cli.terminal import console

    for name, size in written.files.items():
        console.print_line(f"{written.folder / name}: {_size(size)}")
    if not written.measured:
        console.print_line("The model card has no figures: they come from the result.json beside the checkpoint.")
    console.print_line("Write the license into README.md. Then upload the folder:")
    console.print_line(f"  {written.upload_command}")
