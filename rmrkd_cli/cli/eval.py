"""`rmrkd eval`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmrkd_cli.api.evaluate import evaluate_with
from rmrkd_cli.cli.command import expand_options, option
from rmrkd_cli.cli.evaluation_options import EvaluationOptions
from rmrkd_cli.cli.options import NETWORK, OUTPUT, JsonOut, check_json_out, write_json
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.dataset_names import dataset_name
from rmrkd_cli.storage.output_paths import check_free_folder
from rmrkd_cli.terminal.text import shorten

if TYPE_CHECKING:
    from rmrkd_cli.results.record import Record

_MISSING = "–"


@expand_options
def eval_command(
    options: EvaluationOptions,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Measure these checkpoints.",
            show_default="every student.pth of the data set below --work-root",
        ),
    ] = None,
    work_root: Annotated[
        Path, option("--work-root", NETWORK, "Find trained students below this folder.", metavar="DIR")
    ] = Path("work_dirs"),
    confusion: Annotated[bool, option("--confusion", OUTPUT, "Print the confusion matrix too.")] = False,
    json_out: JsonOut = None,
    force: Annotated[bool, option("--force", OUTPUT, "Replace the file of --json if it exists.")] = False,
    save_predictions: Annotated[
        Path | None,
        option(
            "--save-predictions",
            OUTPUT,
            "Write a PNG of class indices for each image into a new folder; works without labels too.",
            metavar="DIR",
        ),
    ] = None,
    label_ids: Annotated[
        bool | None,
        option(
            "--label-ids/--class-indices",
            OUTPUT,
            "Write the label ids that the test server of Cityscapes or ADE20K takes, or class indices from 0.",
            default="label ids for --split test",
        ),
    ] = None,
) -> None:
    """Measure the mIoU of checkpoints, and of ONNX and TorchScript files.

    Examples:
        rmrkd eval --dataset demo
        rmrkd eval student.pth --dataset cityscapes --data-root data/cityscapes --json result.json
    """

    dataset = dataset_name(options.dataset)
    if label_ids is not None and save_predictions is None:
        flag = "--label-ids" if label_ids else "--class-indices"
        raise RmrkdError(f"{flag} is for predictions, but none are written", "--save-predictions DIR")
    measured = options.as_settings()
    check_json_out(json_out, force=force)
    check_free_folder(save_predictions)
    files = list(checkpoints or []) or find_students(work_root, dataset)
    check_json_out(json_out, force=True, inputs=files)
    records = evaluate_with(
        files, measured, save_predictions=save_predictions, label_ids=label_ids, require_labels=json_out is not None
    )
    if json_out is not None:
        write_json(records, json_out)
    if json_out != "-":
        _print_records(records, confusion=confusion)


def find_students(work_root: Path, dataset: str | None) -> list[Path]:
    """Return every `student.pth` of the data set, two folders below `work_root` or three with a folder per seed.

    Raises:
        RmrkdError: If no data set is given, or there is no such file.
    """
    if dataset is None:
        raise RmrkdError("no checkpoint and no data set is given", "name a file, or rmrkd eval --dataset demo")
    from rmrkd_cli.checkpoints.reader import read_checkpoint
    from rmrkd_cli.terminal import messages

    files = (path for folders in ("*/*", "*/seed-*/*") for path in work_root.glob(f"{folders}/student.pth"))
    students = [path for path in sorted(files) if ".old" not in path.parent.name]
    matching = []
    for path in students:
        try:
            if read_checkpoint(path, lazy=True).meta.get("dataset") == dataset:
                matching.append(path)
        except RmrkdError as error:
            messages.log(f"skipped: {error.message}")
    if not matching:
        others = f" ({len(students)} for other data sets)" if students else ""
        raise RmrkdError(
            f"no student for `{dataset}` below `{work_root}`{others}",
            "train one (list of presets: rmrkd presets), name a checkpoint, or name its folder with --work-root DIR",
        )
    return matching


def _print_records(records: list[Record], *, confusion: bool) -> None:
    """Print the classes of a single checkpoint, confusion matrices, and one table of means for each protocol."""
    from rmrkd_cli.comparison.groups import group_records, unique_labels
    from rmrkd_cli.report import class_tables, tables
    from rmrkd_cli.results.protocol import protocol_line
    from rmrkd_cli.terminal import console

    if len(records) == 1:
        console.print_numbers("Each class, %", *class_tables.metrics_table(records[0]), bold_last=True)
    names = unique_labels(records)  # over all tables, so that no row of one is taken for a row of another
    for record, name in zip(records, names, strict=True):
        if confusion and record.get("matrix") is not None:
            title = f"Confusion matrix, % of each true class (row): {name}"
            console.print_table(title, *class_tables.confusion_table(record, console.terminal_width()))
    label_by_record = {id(record): name for record, name in zip(records, names, strict=True)}
    protocols = _group_by_protocol(records)
    for same in protocols:
        columns, rows = tables.summary_table(group_records(same, seeds=False))
        rows = [[label_by_record[id(record)], *row[1:]] for row, record in zip(rows, same, strict=True)]
        paper = [_paper_miou(record) for record in same]
        if set(paper) != {_MISSING}:
            columns = [*columns, "paper"]
            rows = [[*row, figure] for row, figure in zip(rows, paper, strict=True)]
        title = "mIoU, %" if len(protocols) == 1 else f"mIoU, %: {_preset_names(same)}"
        boundary = same[0].get("boundary")
        notes = [tables.boundary_line(boundary["width"])] if boundary else []
        console.print_numbers(title, columns, rows, [protocol_line(same[0]["protocol"]), *notes])


def _preset_names(records: list[Record]) -> str:
    names = dict.fromkeys(str(record.get("name") or record["protocol"]["dataset"]) for record in records)
    return shorten(", ".join(names))


def _group_by_protocol(records: list[Record]) -> list[list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(repr(record["protocol"]), []).append(record)
    return list(groups.values())


def _paper_miou(record: Record) -> str:
    """Return the paper's mIoU for a record of a released pair, measured as in the paper; a dash for others."""
    from rmrkd_cli.presets.loader import load_preset, preset_names
    from rmrkd_cli.presets.schema import OWN_METHOD

    protocol: dict[str, Any] = record["protocol"]
    as_in_paper = (
        protocol["split"] == "val"
        and protocol["mode"] == "whole"
        and protocol["scales"] == [1.0]
        and not protocol["flip"]
    )
    field = {"baseline": "baseline", "distill": "distilled"}.get(str(record.get("role")))
    if (
        not as_in_paper
        or field is None
        or record.get("method") != OWN_METHOD
        or record.get("name") not in preset_names()
    ):
        return _MISSING
    paper = load_preset(record["name"]).paper
    return _MISSING if paper is None else f"{getattr(paper, field):.2f}"
