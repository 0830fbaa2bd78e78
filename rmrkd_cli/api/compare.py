"""Compare networks from Python, as `rmrkd compare` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.api.checks import Size, path_or_none, paths
from rmrkd_cli.api.evaluation_settings import EvaluationSettings
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.user_code import allow_files
from rmrkd_cli.storage.folder_contents import files_to_name, network_path
from rmrkd_cli.storage.output_paths import check_free_folder
from rmrkd_cli.terminal.progress import progress_to

if TYPE_CHECKING:
    from rmrkd_cli.comparison.types import Comparison
    from rmrkd_cli.terminal.progress import ProgressUpdate


def compare(
    checkpoints: Sequence[str | Path],
    *,
    dataset: str | None = None,
    data_root: str | Path | None = None,
    split: str = "val",
    max_images: int | None = None,
    preset: str | None = None,
    code: Sequence[str] = (),
    allow_partial: bool = False,
    mode: str = "whole",
    crop: Size | None = None,
    stride: Size | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    device: str = "auto",
    gpus: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    color: str | None = None,
    input_size: Size | None = None,
    output: str | None = None,
    classes: Any = None,
    boundary_iou: bool = False,
    boundary_width: float | None = None,
    report: str | Path | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
) -> Comparison:
    """Measure checkpoints in the same way, or read results, and compare them.

    Args:
        checkpoints: Checkpoints, ONNX and TorchScript files, or result files (`result.json`); two or more.
        report: Write an HTML page, figures, CSV and JSON into this new folder.
        progress: Called after every image, if the evaluation runs in this process (`gpus` is 1).

    The other arguments are those of `evaluate`.

    Returns:
        IoU of each class, mIoU, size, cost and latency of each group of seeds, and differences with their 95 %
        intervals. `groups`, `differences` and `warnings` are its main parts.

    Raises:
        RmrkdError: For a wrong argument or file, and for results that were measured differently.
    """
    settings = EvaluationSettings.of(locals())
    check_free_folder(path_or_none(report))
    with progress_to(progress):
        return compare_with(paths(checkpoints), settings, path_or_none(report))


def compare_with(
    files: list[Path], settings: EvaluationSettings, report: Path | None = None, command: str = ""
) -> Comparison:
    """Compare files with these settings.

    Args:
        report: Folder of the page; None for no page.
        command: The command that writes the report again, as the page names it.
    """
    from rmrkd_cli.comparison.compare import compare as compare_records
    from rmrkd_cli.comparison.inputs import add_latencies, load_compared_files
    from rmrkd_cli.networks.file_options import check_for_files
    from rmrkd_cli.report.folder import write_report_folder

    allow_files(settings.code)
    files = [network_path(file) for file in files]
    _check_files(files, settings)
    check_for_files(settings.file_input, files)
    preset = settings.load_preset()
    device, cluster = settings.choose_devices()
    arguments = settings.arguments(preset, device)
    compared = load_compared_files(files, arguments, cluster)
    loading = {key: arguments[key] for key in ("allow_partial", "file_input", "dataset")}
    add_latencies(compared, preset, device, **loading)
    comparison = compare_records([one.record for one in compared])
    if report is not None:
        used = {key: arguments[key] for key in ("dataset", "data_root", "device", "allow_partial", "file_input")}
        write_report_folder(comparison, compared, report, command, given=preset, **used)
    return comparison


def _check_files(files: list[Path], settings: EvaluationSettings) -> None:
    if len(files) < 2 and (not files or files[0].suffix != ".json"):  # a result file can contain several results
        raise RmrkdError(f"a comparison needs two or more files, got {len(files)}", "rmrkd compare FILE FILE")
    for file in files:
        if file.is_dir():
            hint = files_to_name(file, results=True) or "name checkpoints, or result files of `rmrkd eval --json`"
            raise RmrkdError(f"`{file}` is a folder, not a file", hint)
        if not file.is_file():
            raise RmrkdError(f"`{file}` does not exist", "name checkpoints, or result files of `rmrkd eval --json`")
    if all(file.suffix == ".json" for file in files) and not settings.has_defaults:
        raise RmrkdError(
            "result files contain finished measurements, which options of an evaluation cannot change",
            "name the checkpoints, or measure them again with `rmrkd eval --json`",
        )
