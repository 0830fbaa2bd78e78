"""`rmrkd compare`"""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmrkd_cli.api.compare import compare_with
from rmrkd_cli.cli.command import expand_options, option
from rmrkd_cli.cli.evaluation_options import EvaluationOptions
from rmrkd_cli.cli.options import OUTPUT, JsonOut, check_json_out, write_json
from rmrkd_cli.storage.output_paths import check_free_folder

if TYPE_CHECKING:
    from rmrkd_cli.comparison.types import Comparison

# Options that do not change the result.
_WITHOUT_EFFECT = ("device", "gpus", "batch_size", "workers")


@expand_options
def compare_command(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Compare these checkpoints or result files; two or more."),
    ],
    options: EvaluationOptions,
    json_out: JsonOut = None,
    force: Annotated[
        bool, option("--force", OUTPUT, "Replace existing files of --json and --report; other files stay.")
    ] = False,
    report_dir: Annotated[
        Path | None,
        option("--report", OUTPUT, "Write an HTML page, figures, CSV and JSON into a new folder.", metavar="DIR"),
    ] = None,
) -> None:
    """Compare checkpoints or results: IoU of each class, mIoU, size, cost and latency.

    Checkpoints are measured first, all in the same way. Result files (`result.json` of a run, or from
    `rmrkd eval --json`) are only read.

    Examples:
        rmrkd compare work_dirs/demo/baseline/student.pth work_dirs/demo/distill/student.pth
        rmrkd compare work_dirs/demo/baseline/result.json work_dirs/demo/distill/result.json --report report
    """
    from rmrkd_cli.comparison.compare import as_document

    settings = options.as_settings()
    check_free_folder(report_dir, force=force)
    check_json_out(json_out, force=force)
    check_json_out(json_out, force=True, inputs=files)
    command = _command_line(files, options, report_dir) if report_dir is not None else ""
    comparison = compare_with(files, settings, report_dir, command)
    if json_out is not None:
        write_json(as_document(comparison), json_out)
    if json_out != "-":
        _print_comparison(comparison)


def _print_comparison(comparison: Comparison) -> None:
    from rmrkd_cli.report import tables
    from rmrkd_cli.results.protocol import protocol_line
    from rmrkd_cli.terminal import console

    notes = [protocol_line(comparison.protocol), *tables.summary_lines(comparison)]
    console.print_numbers("IoU of each class, %", *tables.class_table(comparison), bold_last=not comparison.warnings)
    if (boundary := tables.boundary_table(comparison)) is not None:
        console.print_numbers("Boundary IoU of each class, %", *boundary, bold_last=not comparison.warnings)
    console.print_numbers("Summary", *tables.summary_table(comparison.groups), notes)


def _command_line(files: list[Path], options: EvaluationOptions, report_dir: Path) -> str:
    """Return the command that writes the report again, without options at their defaults."""
    words = ["rmrkd", "compare", *map(str, files)]
    for field in fields(options):
        value = getattr(options, field.name)
        if value != field.default and field.name not in _WITHOUT_EFFECT:
            name = f"--{field.name.replace('_', '-')}"
            for each in value if isinstance(value, list) else [value]:
                words += [name] if each is True else [name, str(getattr(each, "value", each))]
    return shlex.join([*words, "--report", str(report_dir)])
