"""`rmrkd compare`"""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmrkd_cli.cli.command import expand_options, option
from rmrkd_cli.cli.evaluation_options import EvaluationOptions
from rmrkd_cli.cli.network_file_options import check_for_files
from rmrkd_cli.cli.options import OUTPUT, JsonOut, check_json_out, write_json
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.user_code import allow_files
from rmrkd_cli.storage.folder_contents import files_to_name
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
    from rmrkd_cli.comparison.compare import as_document, compare
    from rmrkd_cli.comparison.inputs import add_latencies, load_compared_files
    from rmrkd_cli.report.folder import write_report_folder

    allow_files(options.code or ())
    _check_files(files, options)
    check_for_files(options.file_input(), files)
    check_free_folder(report_dir, force=force)
    check_json_out(json_out, force=force)
    check_json_out(json_out, force=True, inputs=files)
    preset = options.load_preset()
    device, cluster = options.choose_devices()
    arguments = options.arguments(preset, device)
    compared = load_compared_files(files, arguments, cluster)
    loading = {key: arguments[key] for key in ("allow_partial", "file_input", "dataset")}
    add_latencies(compared, preset, device, **loading)
    comparison = compare([one.record for one in compared])
    if report_dir is not None:
        settings = {key: arguments[key] for key in ("dataset", "data_root", "device", "allow_partial", "file_input")}
        command = _command_line(files, options, report_dir)
        write_report_folder(comparison, compared, report_dir, command, given=preset, **settings)
    if json_out is not None:
        write_json(as_document(comparison), json_out)
    if json_out != "-":
        _print_comparison(comparison)


def _check_files(files: list[Path], options: EvaluationOptions) -> None:
    if len(files) < 2 and files[0].suffix != ".json":  # a result file can contain several results
        raise RmrkdError(f"a comparison needs two or more files, got {len(files)}", "rmrkd compare FILE FILE")
    for file in files:
        if file.is_dir():
            hint = files_to_name(file, results=True) or "name checkpoints, or result files of `rmrkd eval --json`"
            raise RmrkdError(f"`{file}` is a folder, not a file", hint)
        if not file.is_file():
            raise RmrkdError(f"`{file}` does not exist", "name checkpoints, or result files of `rmrkd eval --json`")
    if all(file.suffix == ".json" for file in files) and not options.has_defaults:
        raise RmrkdError(
            "result files contain finished measurements, which options of an evaluation cannot change",
            "name the checkpoints, or measure them again with `rmrkd eval --json`",
        )


def _print_comparison(comparison: Comparison) -> None:
    from rmrkd_cli.report import tables
    from rmrkd_cli.results.protocol import protocol_line
    from rmrkd_cli.terminal import console

    notes = [protocol_line(comparison.protocol), *tables.summary_lines(comparison)]
    console.print_table("IoU of each class, %", *tables.class_table(comparison), bold_last=not comparison.warnings)
    console.print_table("Summary", *tables.summary_table(comparison.groups), notes)


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
