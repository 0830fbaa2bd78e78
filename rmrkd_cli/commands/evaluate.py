"""`rmrkd eval`"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from enum import Enum
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
from rmrkd_cli.commands.usage import cut
from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from rmrkd_cli.engine.cluster import Cluster
    from rmrkd_cli.report import Record


_MAX_SCALES = 32


class Split(str, Enum):
    val = "val"
    test = "test"
    train = "train"


def eval_command(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(metavar="CHECKPOINT", help="Files of any kind. (default: every student under --work-root)"),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data set. (default: the one the checkpoint was trained on)")
    ] = None,
    data_root: DataRoot = None,
    split: Annotated[Split, typer.Option(help="Which part of it.")] = Split.val,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Whose network it is, where the file does not say."),
    ] = None,
    work_root: Annotated[Path, typer.Option(metavar="DIR", help="Where trained students are looked for.")] = Path(
        "work_dirs"
    ),
    gpus: Gpus = None,
    device: DeviceOption = Device.auto,
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirrored image.")] = False,
    scales: Annotated[str, typer.Option(metavar="LIST", help="Average over these scales, as 0.5,1.0,1.5.")] = "1.0",
    json_out: JsonOut = None,
    save_predictions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write index PNGs with the data set's palette.")
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    allow_partial: AllowPartial = False,
) -> None:
    """Measure the mIoU of checkpoints."""
    from rmrkd_cli import console, report
    from rmrkd_cli.engine.cluster import Cluster
    from rmrkd_cli.engine.distributed import choose_device
    from rmrkd_cli.presets import load_preset

    name, averaged = dataset_name(dataset), image_scales(scales)
    check_json_out(json_out)
    check_free_folder(save_predictions)
    files = list(checkpoints or []) or find_students(work_root, name)
    given = load_preset(preset) if preset is not None else None
    kind, count = choose_device(device.value, gpus)
    options: dict[str, Any] = {
        "preset": given.model_dump(mode="json") if given is not None else None,
        "dataset": name,
        "data_root": data_root,
        "split": split.value,
        "scales": averaged,
        "flip": flip,
        "device": kind,
        "max_images": max_images,
        "allow_partial": allow_partial,
    }
    records = evaluate_files(files, options, Cluster(workers=count), save_predictions)
    if json_out is not None:
        write_json(records, json_out)
    if json_out != "-":
        for group in _same_protocol(records):
            columns, rows = _with_paper(report.summary_table(group), group)
            console.show_table("mIoU, %", columns, rows, [report.protocol_line(group[0]["protocol"])])


def evaluate_files(
    files: Sequence[Path], options: dict[str, Any], cluster: Cluster, save_predictions: Path | None = None
) -> list[Record]:
    """Evaluates checkpoints one after the other, each by all workers."""
    from rmrkd_cli.engine.job import EvalJob
    from rmrkd_cli.engine.launch import execute
    from rmrkd_cli.report import read_record

    for file in files:
        if not file.is_file():
            why = "is a folder" if file.is_dir() else "does not exist"
            raise RmrkdError(f"checkpoint `{file}` {why}", "name a .pth or .safetensors file")
    folders = _prediction_folders(files, save_predictions)
    records = []
    for file in files:
        with tempfile.TemporaryDirectory(prefix="rmrkd-") as folder:
            output = Path(folder) / "result.json"
            job = EvalJob(checkpoint=str(file), output=str(output), save_predictions=folders[file], **options)
            execute(job, cluster)
            records.append(read_record(output))
    return records


def find_students(work_root: Path, dataset: str | None) -> list[Path]:
    """Every `student.pth` two folders below `work_root` that was trained for the data set."""
    if dataset is None:
        raise RmrkdError("which checkpoints?", "name files, or a data set: rmrkd eval --dataset demo")
    from rmrkd_cli import console
    from rmrkd_cli.checkpoint import read_checkpoint

    found = [path for path in sorted(work_root.glob("*/*/student.pth")) if ".old" not in path.parent.name]
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


def image_scales(text: str) -> tuple[float, ...]:
    """Of `--scales`."""
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not 1 <= len(scales) <= _MAX_SCALES or not all(0.05 <= scale <= 8 for scale in scales):
        raise RmrkdError(
            f"--scales `{cut(text)}` must be 1 to {_MAX_SCALES} numbers from 0.05 to 8, separated by commas",
            "--scales 0.5,1.0,1.5",
        )
    return scales


def _prediction_folders(files: Sequence[Path], root: Path | None) -> dict[Path, str | None]:
    """One folder of index PNGs a checkpoint, none of them used before."""
    if root is None:
        return dict.fromkeys(files)
    check_free_folder(root)
    if len(files) == 1:
        return {files[0]: str(root)}
    return {file: str(root / f"{number}-{file.parent.name}-{file.stem}") for number, file in enumerate(files, 1)}


def _same_protocol(records: list[Record]) -> list[list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(repr(record["protocol"]), []).append(record)
    return list(groups.values())


def _with_paper(table: Any, records: list[Record]) -> Any:
    """A column with the paper's figure, where a preset has one for the role."""
    from rmrkd_cli.presets import load_preset, preset_names
    from rmrkd_cli.schema import OWN_METHOD

    known = set(preset_names())
    protocol = records[0]["protocol"]
    theirs = protocol["split"] == "val" and protocol["scales"] == [1.0] and not protocol["flip"]
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
