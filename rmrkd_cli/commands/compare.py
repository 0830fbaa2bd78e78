"""`rmrkd compare`"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmrkd_cli.commands.options import (
    AllowPartial,
    DataRoot,
    Device,
    DeviceOption,
    Gpus,
    JsonOut,
    check_free_folder,
    check_json_out,
    dataset_name,
    write_json,
)
from rmrkd_cli.errors import RmrkdError

_TIMED_PIXELS = 1 << 24  # of a size that only a result file says

if TYPE_CHECKING:
    from rmrkd_cli.comparison import Comparison
    from rmrkd_cli.report import Record


def compare_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Two or more checkpoints or result files.")],
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data set. (default: the one the checkpoint was trained on)")
    ] = None,
    data_root: DataRoot = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Whose networks they are, where a file does not say.")
    ] = None,
    gpus: Gpus = None,
    device: DeviceOption = Device.auto,
    max_images: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    allow_partial: AllowPartial = False,
    json_out: JsonOut = None,
    report_dir: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write an HTML page, PNG, CSV and JSON.")
    ] = None,
) -> None:
    """Put results side by side: IoU per class and mean, size, cost and latency."""
    from rmrkd_cli import console, report
    from rmrkd_cli.commands.evaluate import evaluate_files
    from rmrkd_cli.commands.report_folder import Compared, write_report_folder
    from rmrkd_cli.comparison import as_document, compare
    from rmrkd_cli.engine.cluster import Cluster
    from rmrkd_cli.engine.distributed import choose_device
    from rmrkd_cli.presets import load_preset

    if len(files) < 2:
        raise RmrkdError(f"a comparison needs two or more files, got {len(files)}")
    for file in files:
        if not file.is_file():
            raise RmrkdError(f"`{file}` does not exist", "name checkpoints, or result files of `rmrkd eval --json`")
    check_free_folder(report_dir)
    check_json_out(json_out)
    given = load_preset(preset) if preset is not None else None
    kind, count = choose_device(device.value, gpus)
    options: dict[str, Any] = {
        "preset": given.model_dump(mode="json") if given is not None else None,
        "dataset": dataset_name(dataset),
        "data_root": data_root,
        "device": kind,
        "max_images": max_images,
        "allow_partial": allow_partial,
    }
    records = [
        report.read_record(file)
        if file.suffix == ".json"
        else evaluate_files([file], options, Cluster(workers=count))[0]
        for file in files
    ]
    for file, record in zip(files, records, strict=True):
        _add_training(record, file)
        if (network := _network_of(file, record)) is not None:
            record["checkpoint_bytes"] = network.stat().st_size
    report.check_same_protocol(records)
    _add_latency(files, records, given, kind, allow_partial=allow_partial)
    comparison = compare(records)
    if report_dir is not None:
        compared = [Compared(*pair, _network_of(*pair)) for pair in zip(files, records, strict=True)]
        command = shlex.join(["rmrkd", "compare", *map(str, files), "--report", str(report_dir)])
        how = {key: options[key] for key in ("dataset", "data_root", "device", "allow_partial")}
        write_report_folder(comparison, compared, report_dir, command, given=given, **how)
        _write_tables(comparison, report_dir)
    if json_out is not None:
        write_json(as_document(comparison), json_out)
    if json_out != "-":
        notes = [report.protocol_line(comparison.protocol), *report.verdict_lines(comparison)]
        console.show_table("IoU of each class, %", *report.class_table(comparison), bold_last=True)
        console.show_table("Summary", *report.summary_table(comparison.groups), notes)


def _add_training(record: Record, file: Path) -> None:
    """What training cost, from the result beside a run's own student."""
    from rmrkd_cli.report import read_record

    beside = file.parent / "result.json"
    if "training" not in record and file.name == "student.pth" and beside.is_file():
        record["training"] = read_record(beside).get("training")


def _add_latency(files: list[Path], records: list[Record], given: Any, kind: str, *, allow_partial: bool) -> None:
    """Times one network of each group, in turns, so that all figures are of the same machine and hour."""
    import torch

    from rmrkd_cli.comparison import group
    from rmrkd_cli.engine.evaluation_run import load_checkpoint_network
    from rmrkd_cli.engine.latency import latencies

    width, height = records[0]["protocol"]["scale"]
    file_of = {id(record): file for file, record in zip(files, records, strict=True)}
    timed, networks = [], []
    for record in records:
        record.pop("latency", None)  # of another hour, if it has one
    for record in [of.records[0] for of in group(records)]:
        file = file_of[id(record)]
        told = file.suffix == ".json"  # a result can be compared without its network
        path = _network_of(file, record)
        if path is None or (told and width * height > _TIMED_PIXELS):
            continue
        try:
            networks.append(load_checkpoint_network(str(path), given, kind, allow_partial=allow_partial).network)
        except RmrkdError:
            if told:
                continue
            raise
        timed.append(record)
    for record, found in zip(timed, latencies(networks, (width, height), torch.device(kind)), strict=True):
        record["latency"] = found


def _network_of(file: Path, record: Record) -> Path | None:
    """The file itself; a result file's checkpoint where it lies in the same folder: it names no other place to read."""
    if file.suffix != ".json":
        return file
    if not record.get("checkpoint"):
        return None
    named = Path(record["checkpoint"])
    beside = file.parent / named.name
    try:
        if not beside.is_file() or (named.exists() and not named.samefile(beside)):
            return None
    except (OSError, ValueError):
        return None
    return beside


def _write_tables(comparison: Comparison, folder: Path) -> None:
    from rmrkd_cli import report
    from rmrkd_cli.atomic import write_text
    from rmrkd_cli.comparison import as_document

    write_text(report.to_csv(report.class_table(comparison, apart=True)), folder / "classes.csv")
    write_text(report.to_csv(report.summary_table(comparison.groups)), folder / "summary.csv")
    write_text(report.to_json(as_document(comparison)), folder / "results.json")
