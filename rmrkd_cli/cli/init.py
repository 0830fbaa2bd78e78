"""`rmrkd init`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmrkd_cli.cli.command import option
from rmrkd_cli.cli.options import DATA, OUTPUT
from rmrkd_cli.errors import CorruptFileError, RmrkdError, RunError
from rmrkd_cli.storage.output_paths import check_new_file, check_recordable
from rmrkd_cli.terminal.text import shorten_value

if TYPE_CHECKING:
    from rmrkd_cli.data.init.folder_preset import FolderPreset
    from rmrkd_cli.data.prepare.pipeline import PrepareResult


def init_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Read the images and masks below this folder.")],
    out: Annotated[
        Path | None,
        option("--out", OUTPUT, "Write the preset into this new file.", default="<DIR's name>.yaml", metavar="FILE"),
    ] = None,
    classes: Annotated[
        Path | None,
        option(
            "--classes",
            DATA,
            "Read the class names, and for masks of colours their colours, from this text, JSON or CSV file.",
            default="classes.txt, labelmap.txt and others in DIR",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Write the preset for a folder of images and masks: folders, suffixes, classes, splits, sizes and schedule.

    What is ambiguous is assumed, and said in the file and on stdout. Masks of colours or of 0 and 255, and polygons of
    Labelme, are written as class indices into DIR/rmrkd-masks. No file is overwritten.

    Examples:
        rmrkd init data/mine
        rmrkd init data/mine --out mine.yaml --classes names.txt
    """
    from rmrkd_cli.data.init.folder_preset import inspect_folder
    from rmrkd_cli.data.init.preset_text import preset_text
    from rmrkd_cli.storage.atomic import write_text

    check_recordable(folder, "DIR")
    check_recordable(out, "--out")
    if not folder.is_dir():
        raise RmrkdError(f"`{folder}` is no folder", "name the folder that contains the images and masks")
    out = out or Path(f"{folder.resolve().name or 'data'}.yaml")
    if out.suffix not in (".yaml", ".yml"):
        raise RmrkdError(f"--out `{out}` must end in .yaml", f"--out {out}.yaml")
    check_new_file(out)
    try:
        found = inspect_folder(folder, classes)
    except CorruptFileError as error:  # of the input, and not of a run
        raise RmrkdError(error.message, error.hint) from error
    except OSError as error:  # a folder below that this user must not read
        raise RmrkdError(
            f"`{shorten_value(error.filename or folder)}` cannot be read: {error.strerror or error}",
            "name the folder of one data set, and make it readable",
        ) from error
    text = preset_text(found, out)
    written = _write(found)
    write_text(text, out)
    _print(found, written, out)


def _write(found: FolderPreset) -> PrepareResult:
    """Write lists and label maps, in parallel if there are many."""
    from rmrkd_cli.cli.data import progress_bars
    from rmrkd_cli.data.init.folder_preset import write_folder_files
    from rmrkd_cli.data.worker_pool import default_workers
    from rmrkd_cli.terminal.live_display import live_display

    few = 32  # label maps, which one process converts before others have started
    workers = 1 if len(found.conversions) <= few else default_workers()
    try:
        with live_display() as display:
            return write_folder_files(found, workers, progress_bars(display, found.root.name))
    except OSError as error:
        raise RunError(
            f"cannot write `{error.filename or found.root}`: {error.strerror or error}",
            "free disk space or change the permissions, then run the same command again: finished files are kept",
        ) from error


def _print(found: FolderPreset, written: PrepareResult, out: Path) -> None:
    from rmrkd_cli.data.init.preset_text import describe_sizes
    from rmrkd_cli.terminal import console
    from rmrkd_cli.terminal.text import join_and, plural

    counts = [f"{len(part.names)} {split}" for split, part in found.pairs.parts.items()]
    console.print_line(f"images: {join_and(counts)}, {describe_sizes(found.sizes)}, {found.pairs.image_suffix}")
    classes = found.labels.classes
    more = f" and {len(classes) - 10} more" if len(classes) > 10 else ""
    origin = found.names_file or "the values in the masks"
    console.print_line(f"classes from {origin}: {len(classes)} ({', '.join(classes[:10])}{more})")
    for text in found.assumed:
        console.print_line(f"assumed: {text}")
    if written.counts:
        files = f"{plural(len(found.lists), 'list')} and {plural(len(found.conversions), 'label map')}"
        console.print_line(
            f"{files} in {found.root}: {written.counts['written']} new, {written.counts['unchanged']} kept"
        )
    console.print_line(f"preset: {out}")
    console.print_line(f"next: rmrkd data check --preset {out}")
    console.print_line(f"then: rmrkd train --preset {out}")
