"""`rmrkd compare`"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

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

_WHOLE = shown_as(Split.val, Mode.whole, None, None, False, "1.0")  # what is measured where nothing is said


def compare_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Two or more checkpoints or result files.")],
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data set. (default: the one the checkpoint was trained on)")
    ] = None,
    data_root: DataRoot = None,
    split: SplitOption = Split.val,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Whose networks they are, where a file does not say.")
    ] = None,
    gpus: Gpus = None,
    device: DeviceOption = Device.auto,
    mode: ModeOption = Mode.whole,
    crop: Crop = None,
    stride: Stride = None,
    flip: Flip = False,
    scales: Scales = "1.0",
    batch_size: BatchSize = None,
    workers: Workers = 2,
    max_images: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    allow_partial: AllowPartial = False,
    json_out: JsonOut = None,
    report_dir: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write an HTML page, PNG, CSV and JSON.")
    ] = None,
) -> None:
    """Put results side by side: IoU per class and mean, size, cost and latency."""
    from rmrkd_cli.comparison.compare import as_document, compare
    from rmrkd_cli.comparison.inputs import add_latencies, compared_files
    from rmrkd_cli.distributed.cluster import Cluster
    from rmrkd_cli.distributed.device import choose_device
    from rmrkd_cli.presets.loader import load_preset
    from rmrkd_cli.report import tables
    from rmrkd_cli.report.folder import write_report_folder
    from rmrkd_cli.results.protocol import protocol_line
    from rmrkd_cli.terminal import console

    _check_files(files)
    shown = shown_as(split, mode, crop, stride, flip, scales)
    if all(file.suffix == ".json" for file in files) and (shown != _WHOLE or max_images is not None):
        raise RmrkdError(
            "result files are measured already: options of an evaluation change nothing about them",
            "name the checkpoints themselves, or measure them anew with `rmrkd eval --json`",
        )
    check_free_folder(report_dir)
    check_json_out(json_out)
    given = load_preset(preset) if preset is not None else None
    kind, count = choose_device(device.value, gpus)
    options: dict[str, Any] = {
        "preset": given.model_dump(mode="json") if given is not None else None,
        "dataset": dataset_name(dataset),
        "data_root": data_root,
        **shown,
        "batch_size": batch_size,
        "workers": workers,
        "device": kind,
        "max_images": max_images,
        "allow_partial": allow_partial,
    }
    compared = compared_files(files, options, Cluster(workers=count))
    add_latencies(compared, given, kind, allow_partial=allow_partial)
    comparison = compare([one.record for one in compared])
    if report_dir is not None:
        said = {
            "dataset": dataset, "data-root": data_root, "preset": preset, "split": split.value, "mode": mode.value,
            "crop": crop, "stride": stride, "flip": flip, "scales": scales, "max-images": max_images,
        }  # fmt: skip
        command = _command(files, said, report_dir)
        how = {key: options[key] for key in ("dataset", "data_root", "device", "allow_partial")}
        write_report_folder(comparison, compared, report_dir, command, given=given, **how)
    if json_out is not None:
        write_json(as_document(comparison), json_out)
    if json_out != "-":
        notes = [protocol_line(comparison.protocol), *tables.summary_lines(comparison)]
        console.show_table("IoU of each class, %", *tables.class_table(comparison), bold_last=True)
        console.show_table("Summary", *tables.summary_table(comparison.groups), notes)


def _check_files(files: list[Path]) -> None:
    if len(files) < 2 and files[0].suffix != ".json":  # which may hold several results
        raise RmrkdError(f"a comparison needs two or more files, got {len(files)}")
    for file in files:
        if not file.is_file():
            raise RmrkdError(f"`{file}` does not exist", "name checkpoints, or result files of `rmrkd eval --json`")


def _command(files: list[Path], said: Mapping[str, object], folder: Path) -> str:
    """What makes the report again; what is as nothing had been said is left out."""
    left_out = (None, False, "val", "whole", "1.0")
    options = [
        word
        for name, value in said.items()
        if value not in left_out
        for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
    ]
    return shlex.join(["rmrkd", "compare", *map(str, files), *options, "--report", str(folder)])
