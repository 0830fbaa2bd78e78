"""Measure networks from Python, as `rmrkd eval` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.api.checks import Size, path_or_none
from rmrkd_cli.api.evaluation_settings import EvaluationSettings
from rmrkd_cli.presets.user_code import allow_files
from rmrkd_cli.storage.output_paths import check_free_folder
from rmrkd_cli.terminal.progress import progress_to

if TYPE_CHECKING:
    from rmrkd_cli.results.record import Record
    from rmrkd_cli.terminal.progress import ProgressUpdate


def evaluate(
    checkpoint: str | Path,
    dataset: str | None = None,
    *,
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
    save_predictions: str | Path | None = None,
    label_ids: bool | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
) -> Record:
    """Measure a checkpoint, or an ONNX or TorchScript file, on images with labels.

    Args:
        checkpoint: The file.
        dataset: A built-in data set; None: the one that the checkpoint was trained on.
        data_root: Folder of its images; None: the checkpoint's.
        split: "val", "test" or "train".
        max_images: Measure on the first images only.
        preset: Name or file of a preset, for a checkpoint that does not describe its network.
        code: Python files that may run, where one of them builds the network.
        allow_partial: Load the tensors that match, and leave the others random.
        mode: "whole", or "slide" for a sliding window.
        crop, stride: (height, width) of the window and of its steps in pixels.
        flip: Average with the prediction of the mirrored image.
        scales: Average the predictions at these factors of the image size.
        device: "auto", "cpu" or "cuda".
        gpus: Worker processes.
        batch_size: Images a forward pass.
        workers: Loader processes.
        mean, std, color, input_size, output, classes: How an ONNX or TorchScript file takes images, and what its
            channels mean, as in the teacher of a preset. `input_size` is (height, width).
        boundary_iou: Measure the boundary IoU too; see `boundary` of the result.
        boundary_width: Width of the boundaries as a share of the image's diagonal, above 0 and at most 0.5; None: 0.02.
        save_predictions: Write a PNG of class indices for each image into this new folder.
        label_ids: Write the label ids of the data set's test server instead.
        progress: Called after every image, if the evaluation runs in this process (`gpus` is 1).

    Returns:
        The contents of a `result.json`, `metrics` and `protocol` among them, and `boundary` with `miou`, `iou` of each
        class, `width`, and `counts` of each image (class, then boundary pixels in both, in the labels, in the
        prediction; one class after the other); empty where `save_predictions` is given
        and the images have no labels.

    Raises:
        RmrkdError: For a wrong argument or file.
    """
    settings = EvaluationSettings.of(locals())
    with progress_to(progress):
        records = evaluate_with(
            [Path(checkpoint)], settings, save_predictions=path_or_none(save_predictions), label_ids=label_ids,
            require_labels=save_predictions is None,
        )  # fmt: skip
    return records[0] if records else {}


def evaluate_with(files: Sequence[Path], settings: EvaluationSettings, **output: Any) -> list[Record]:
    """Measure files with these settings.

    Args:
        output: `save_predictions`, `label_ids` and `require_labels` of `evaluate_files`.
    """
    from rmrkd_cli.networks.file_options import check_for_files

    allow_files(settings.code)
    check_free_folder(output.get("save_predictions"))
    check_for_files(settings.file_input, files)
    preset = settings.load_preset()
    device, cluster = settings.choose_devices()
    from rmrkd_cli.evaluation.run import evaluate_files

    return evaluate_files(files, cluster, **settings.arguments(preset, device), **output)
