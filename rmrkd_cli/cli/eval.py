"""`rmrkd eval`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmrkd_cli.cli.evaluation_options import (
    BatchSize,
    Crop,
    Flip,
    Mode,
    ModeOption,
    Scales,
    Split,
    SplitOption,
    Stride,
    Workers,
    shown_as,
)
from rmrkd_cli.cli.options import (
    AllowPartial,
    DataRoot,
    Device,
    DeviceOption,
    Gpus,
    JsonOut,
    check_json_out,
    dataset_name,
    write_json,
)
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.output_paths import check_free_folder

if TYPE_CHECKING:
    from rmrkd_cli.results.record import Record


def eval_command(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(metavar="CHECKPOINT", help="Files of any kind. (default: every student under --work-root)"),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data set. (default: the one the checkpoint was trained on)")
    ] = None,
    data_root: DataRoot = None,
    split: SplitOption = Split.val,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Whose network it is, where the file does not say."),
    ] = None,
    work_root: Annotated[Path, typer.Option(metavar="DIR", help="Where trained students are looked for.")] = Path(
        "work_dirs"
    ),
    gpus: Gpus = None,
    device: DeviceOption = Device.auto,
    mode: ModeOption = Mode.whole,
    crop: Crop = None,
    stride: Stride = None,
    flip: Flip = False,
    scales: Scales = "1.0",
    batch_size: BatchSize = None,
    workers: Workers = 2,
    confusion: Annotated[bool, typer.Option("--confusion", help="Also print what each class is taken for.")] = False,
    json_out: JsonOut = None,
    save_predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write index PNGs with the data set's palette; images of a split without labels are only predicted.",
        ),
    ] = None,
    label_ids: Annotated[
        bool | None,
        typer.Option(
            "--label-ids/--class-indices",
            help="Write what the test server takes: Cityscapes' label ids, ADE20K's ids from 1, the images' own "
            "names. (default: label ids for --split test, where there are any)",
        ),
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    allow_partial: AllowPartial = False,
) -> None:
    """Measure the mIoU of checkpoints."""
    from rmrkd_cli.distributed.cluster import Cluster
    from rmrkd_cli.distributed.device import choose_device
    from rmrkd_cli.presets.loader import load_preset

    name, shown = dataset_name(dataset), shown_as(split, mode, crop, stride, flip, scales)
    if label_ids is not None and save_predictions is None:
        option = "--label-ids" if label_ids else "--class-indices"
        raise RmrkdError(f"{option} is of predictions, and none are written", "--save-predictions DIR")
    check_json_out(json_out)
    check_free_folder(save_predictions)
    files = list(checkpoints or []) or find_students(work_root, name)
    given = load_preset(preset) if preset is not None else None
    kind, count = choose_device(device.value, gpus)
    options: dict[str, Any] = {
        "preset": given.model_dump(mode="json") if given is not None else None,
        "dataset": name,
        "data_root": data_root,
        **shown,
        "batch_size": batch_size,
        "workers": workers,
        "save_predictions": save_predictions,
        "label_ids": label_ids,
        "require_labels": json_out is not None,
        "device": kind,
        "max_images": max_images,
        "allow_partial": allow_partial,
    }
    from rmrkd_cli.evaluation.run import evaluate_files

    records = evaluate_files(files, Cluster(workers=count), **options)
    if json_out is not None:
        write_json(records, json_out)
    if json_out != "-":
        _show(records, confusion=confusion)


def _show(records: list[Record], *, confusion: bool) -> None:
    """Tables; each class of one checkpoint alone, the means of several."""
    from rmrkd_cli.comparison.groups import group as group_records
    from rmrkd_cli.comparison.groups import labels
    from rmrkd_cli.report import class_tables, tables
    from rmrkd_cli.results.protocol import protocol_line
    from rmrkd_cli.terminal import console

    if len(records) == 1:
        console.show_table("Each class, %", *class_tables.metrics_table(records[0]), bold_last=True)
    for record, name in zip(records, labels(records), strict=True):
        if confusion and record.get("matrix") is not None:
            title = f"What each class (row) is predicted as, %: {name}"
            console.show_table(title, *class_tables.confusion_table(record, console.columns()))
    for group in _same_protocol(records):
        columns, rows = _with_paper(tables.summary_table(group_records(group, seeds=False)), group)
        console.show_table("mIoU, %", columns, rows, [protocol_line(group[0]["protocol"])])


def find_students(work_root: Path, dataset: str | None) -> list[Path]:
    """Every `student.pth` two folders below `work_root`, or below a seed's, that was trained for the data set."""
    if dataset is None:
        raise RmrkdError("which checkpoints?", "name files, or a data set: rmrkd eval --dataset demo")
    from rmrkd_cli.checkpoints.reader import read_checkpoint
    from rmrkd_cli.terminal import console

    files = (path for folders in ("*/*", "*/seed-*/*") for path in work_root.glob(f"{folders}/student.pth"))
    found = [path for path in sorted(files) if ".old" not in path.parent.name]
    fitting = []
    for path in found:
        try:
            if read_checkpoint(path, lazy=True).meta.get("dataset") == dataset:
                fitting.append(path)
        except RmrkdError as error:
            console.say(f"left out: {error.message}")
    if not fitting:
        others = f" ({len(found)} for other data sets)" if found else ""
        raise RmrkdError(
            f"no student for `{dataset}` under `{work_root}`{others}",
            "train one (see `rmrkd presets`), name a checkpoint, or say where with --work-root DIR",
        )
    return fitting


def _same_protocol(records: list[Record]) -> list[list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(repr(record["protocol"]), []).append(record)
    return list(groups.values())


def _with_paper(table: Any, records: list[Record]) -> Any:
    """A column with the paper's figure, where a preset has one for the role."""
    from rmrkd_cli.presets.loader import load_preset, preset_names
    from rmrkd_cli.presets.schema import OWN_METHOD

    known = set(preset_names())
    protocol = records[0]["protocol"]
    plain = protocol["mode"] == "whole" and protocol["scales"] == [1.0] and not protocol["flip"]
    theirs = plain and protocol["split"] == "val"
    figures = []
    for record in records:
        own = theirs and record.get("name") in known and record.get("method") == OWN_METHOD
        paper = load_preset(record["name"]).paper if own else None
        role = {"baseline": "baseline", "distill": "distilled"}.get(str(record.get("role")))
        figures.append(f"{getattr(paper, role):.2f}" if paper is not None and role else "–")
    if set(figures) == {"–"}:
        return table
    columns, rows = table
    return [*columns, "paper"], [[*row, figure] for row, figure in zip(rows, figures, strict=True)]
