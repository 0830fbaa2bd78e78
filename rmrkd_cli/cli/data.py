"""`rmrkd data check` and `rmrkd data prepare`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmrkd_cli.cli.command import Command, CommandGroup, option
from rmrkd_cli.cli.completion import complete_dataset, complete_preset
from rmrkd_cli.cli.message_options import with_message_options
from rmrkd_cli.cli.options import (
    DATA,
    DataRoot,
    JsonOut,
    Unlabelled,
    check_json_out,
    write_json,
)
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.presets.dataset_names import dataset_name
from rmrkd_cli.storage.output_paths import absolute_path
from rmrkd_cli.terminal.text import plural

if TYPE_CHECKING:
    from rmrkd_cli.data.check import DatasetReport
    from rmrkd_cli.data.check.findings import Finding
    from rmrkd_cli.data.datasets import DatasetInfo
    from rmrkd_cli.data.prepare.pipeline import PrepareResult, Progress
    from rmrkd_cli.terminal.live_display import LiveDisplay, ProgressBar

_SHOWN = 5  # problems
_PREPARED = ("cityscapes", "voc12aug")

data_app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="""Check a data set, or make the label maps missing in Cityscapes and VOC 2012 + SBD.

Examples:
  rmrkd data check cityscapes --data-root data/cityscapes
  rmrkd data prepare cityscapes --data-root data/cityscapes
""",
)

Workers = Annotated[
    int | None, option("--workers", DATA, "Use N processes.", default="one for each CPU", min=1, max=32)
]


@data_app.command("check", cls=Command)
@with_message_options
def check_command(
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET",
            help="Check this data set.",
            show_default="the preset's",
            autocompletion=complete_dataset,
        ),
    ] = None,
    data_root: DataRoot = None,
    unlabelled: Unlabelled = None,
    preset: Annotated[
        str | None,
        option(
            "--preset",
            DATA,
            "Check the data set of this preset, in its folders and with its classes (list: rmrkd presets).",
            metavar="NAME|FILE",
            autocompletion=complete_preset,
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        option("--split", DATA, "Check this split only; repeatable.", default="all", metavar="NAME"),
    ] = None,
    workers: Workers = None,
    json_out: JsonOut = None,
) -> None:
    """Find every missing, damaged or wrong file of a data set, and count the pixels of each class.

    The exit code is 0 without errors and 2 with errors.

    Examples:
        rmrkd data check camvid --data-root data/camvid
        rmrkd data check --preset mine.yaml --json check.json
    """
    from rmrkd_cli.cli.data_report import print_report, report_document
    from rmrkd_cli.data.check import check_dataset
    from rmrkd_cli.data.check.findings import select_errors
    from rmrkd_cli.data.worker_pool import default_workers
    from rmrkd_cli.terminal.live_display import live_display

    check_json_out(json_out)
    info = _dataset_info(dataset, data_root, preset, absolute_path(unlabelled))
    with live_display() as display:
        progress = progress_bars(display, info.name)
        report = check_dataset(
            info, split or (), workers=workers or default_workers(),
            on_progress=lambda done, total: progress("check", done, total),
        )  # fmt: skip
    if json_out is not None:
        write_json(report_document(report), json_out)
    if json_out != "-":
        print_report(report)
    if found := select_errors(report.findings):
        raise RmrkdError(
            f"{plural(len(found), 'problem')} in `{info.root}`{_expected_layout(report, found)}", _next_step(found)
        )


@data_app.command("prepare", cls=Command)
@with_message_options
def prepare_command(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="Prepare cityscapes or voc12aug; other data sets need nothing.",
            autocompletion=lambda incomplete: [name for name in _PREPARED if name.startswith(incomplete)],
        ),
    ],
    data_root: DataRoot = None,
    sbd: Annotated[
        Path | None,
        option("--sbd", DATA, "Read the SBD annotations for voc12aug from this folder.", metavar="DIR"),
    ] = None,
    workers: Workers = None,
) -> None:
    """Make the label maps missing in Cityscapes and VOC 2012 + SBD. No file is overwritten.

    Examples:
        rmrkd data prepare cityscapes --data-root data/cityscapes
        rmrkd data prepare voc12aug --data-root data/VOCdevkit/VOC2012 --sbd benchmark_RELEASE
    """
    from rmrkd_cli.data.worker_pool import default_workers
    from rmrkd_cli.terminal.live_display import live_display

    name = str(dataset_name(dataset))
    if name not in _PREPARED:
        raise RmrkdError(f"`{name}` needs no preparation", f"rmrkd data check {name}")
    info = _dataset_info(name, data_root, None)
    if name == "voc12aug" and sbd is None:
        raise RmrkdError("voc12aug needs the SBD annotations", "--sbd DIR, the folder benchmark_RELEASE of SBD")
    if name != "voc12aug" and sbd is not None:
        raise RmrkdError(f"--sbd is for voc12aug, not for {name}", "leave out --sbd")
    with live_display() as display:
        outcome = _prepare(info, sbd, workers or default_workers(), progress_bars(display, info.name))
    _print_outcome(outcome, info)


def progress_bars(display: LiveDisplay, dataset: str) -> Progress:
    """Return a function that shows the progress of each step in a separate bar."""
    bars: dict[str, ProgressBar | None] = {}

    def update(step: str, done: int, total: int) -> None:
        if step not in bars:
            bars[step] = display.progress_bar(f"{step} {dataset}", total)
        if (bar := bars[step]) is not None:
            bar.update(done)

    return update


def _dataset_info(
    dataset: str | None, data_root: str | None, preset_name: str | None, unlabelled: str | None = None
) -> DatasetInfo:
    """Return the data set of a name, or of a preset, with other folders where they are given."""
    from rmrkd_cli.data.datasets import dataset_info
    from rmrkd_cli.presets.data_schema import UnlabelledFolder
    from rmrkd_cli.presets.loader import dataset_preset, load_preset

    name = dataset_name(dataset)
    if preset_name is not None:
        preset = load_preset(preset_name)
        if name is not None and preset.dataset != name:
            raise RmrkdError(
                f"preset `{preset_name}` is for `{preset.dataset}`, not for `{name}`",
                f"rmrkd data check --preset {preset_name}",
            )
    elif name is None:
        raise RmrkdError(
            "no data set is named", "rmrkd data check --preset FILE for your own data, or rmrkd data check camvid"
        )
    elif name == "custom":
        raise RmrkdError("`custom` needs a preset that describes it", "rmrkd data check --preset FILE")
    else:
        preset = dataset_preset(name)
    data = preset.data if data_root is None else preset.data.model_copy(update={"root": data_root})
    if unlabelled is not None:
        data = data.model_copy(update={"unlabelled": UnlabelledFolder(images=unlabelled)})
    return dataset_info(preset.model_copy(update={"data": data}))


def _expected_layout(report: DatasetReport, found: list[Finding]) -> str:
    """Return how the folders of a data set must look, if any is missing."""
    from rmrkd_cli.data.samples import expected_tree

    splits = list(dict.fromkeys(finding.split for finding in found if finding.kind == "missing-part" and finding.split))
    return f"; the layout of `{report.info.name}` is\n{expected_tree(report.info, splits)}" if splits else ""


def _next_step(found: list[Finding]) -> str:
    fixes = {finding.fix for finding in found}
    fix = fixes.pop() if len(fixes) == 1 else "each finding above shows its fix"
    return f"{fix}; then run the check again"


def _prepare(info: DatasetInfo, sbd: Path | None, workers: int, on_progress: Progress) -> PrepareResult:
    from rmrkd_cli.data.prepare.cityscapes import prepare_cityscapes
    from rmrkd_cli.data.prepare.voc12aug import prepare_voc12aug

    try:
        if sbd is None:
            return prepare_cityscapes(info, workers, on_progress)
        return prepare_voc12aug(info.root, sbd, workers, on_progress)
    except OSError as error:
        where = f" `{error.filename}`" if error.filename else ""
        raise RunError(
            f"cannot write{where}: {error.strerror or error}",
            "free disk space or change the permissions, then run the same command again: finished files are kept",
        ) from error


def _print_outcome(outcome: PrepareResult, info: DatasetInfo) -> None:
    from rmrkd_cli.terminal import console, messages

    images = ", ".join(f"{count} {split}" for split, count in outcome.images.items())
    written, kept = outcome.counts["written"], outcome.counts["unchanged"]
    console.print_line(f"{written} files written, {kept} already there, all verified")
    console.print_line(f"images: {images}")
    for notice in outcome.notices:
        messages.log(f"note: {notice}")
    if outcome.problems:
        raise RmrkdError(
            f"{plural(len(outcome.problems), 'problem')} with `{outcome.root}`:\n{outcome.list_problems(_SHOWN)}",
            "existing files are never overwritten: move the named files away or fix the source, then run the same "
            "command again",
        )
    console.print_line(f"next: rmrkd data check {info.name} --data-root {outcome.root}")
