"""Segment images and videos from Python, as `rmrkd predict` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.api.checks import Size, check_choices, check_scales, check_window, file_input, paths
from rmrkd_cli.installation.mmseg import require_mmseg
from rmrkd_cli.presets.dataset_names import dataset_name
from rmrkd_cli.presets.user_code import allow_files
from rmrkd_cli.storage.folder_contents import check_checkpoint_file
from rmrkd_cli.storage.output_paths import check_free_folder, check_inputs
from rmrkd_cli.terminal.progress import progress_to

if TYPE_CHECKING:
    from rmrkd_cli.prediction.results import PredictionResults
    from rmrkd_cli.terminal.progress import ProgressUpdate


def predict(
    checkpoint: str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    preset: str | None = None,
    code: Sequence[str] = (),
    dataset: str | None = None,
    scale: Size | None = None,
    max_value: float | None = None,
    mode: str = "whole",
    crop: Size | None = None,
    stride: Size | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    device: str = "auto",
    workers: int = 2,
    out: str | Path = "predictions",
    force: bool = False,
    overlay: str = "png",
    opacity: float = 0.5,
    legend: bool = True,
    frames: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    color: str | None = None,
    input_size: Size | None = None,
    output: str | None = None,
    classes: Any = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
) -> PredictionResults:
    """Segment images and videos, and write class indices as PNG, overlays, and pixel shares into a folder.

    `rmrkd_cli.segment` gives the logits of a batch in memory instead.

    Args:
        checkpoint: A checkpoint, or an ONNX or TorchScript file.
        images: Images, videos, or folders of them.
        preset: Name or file of a preset, for a checkpoint that does not describe its network.
        code: Python files that may run, where one of them builds the network.
        dataset: Take class names, colours and image size from this data set; None: the checkpoint's.
        scale: (width, height) that images are fitted into; None: as in the evaluation.
        max_value: The value of white in images of more than 8 bits.
        mode: "whole", or "slide" for a sliding window.
        crop, stride: (height, width) of the window and of its steps in pixels.
        flip: Average with the prediction of the mirrored image.
        scales: Average the predictions at these factors of the image size.
        device: "auto", "cpu" or "cuda".
        workers: Loader processes.
        out: A new folder.
        force: Write into a folder that is not empty.
        overlay: "png", "jpg" or "none".
        opacity: Of the colours, 0 to 1.
        legend: Draw a legend below each overlay.
        frames: Write class indices for each frame of a video too.
        mean, std, color, input_size, output, classes: As for `evaluate`.
        progress: Called after every image and frame.

    Returns:
        `entries`, one for each input with its files and the share of each class, and `unread`, the inputs that could
        not be read.

    Raises:
        RmrkdError: For a wrong argument or file.
    """
    described = file_input(mean, std, color, input_size, output, classes)
    with progress_to(progress):
        return predict_with(
            checkpoint, images, preset=preset, code=code, dataset=dataset, scale=scale, max_value=max_value, mode=mode,
            crop=crop, stride=stride, flip=flip, scales=scales, device=device, workers=workers, out=out, force=force,
            overlay=overlay, opacity=opacity, legend=legend, frames=frames, file_input=described,
        )  # fmt: skip


def predict_with(
    checkpoint: str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    preset: str | None,
    code: Sequence[str],
    dataset: str | None,
    out: str | Path,
    force: bool,
    mode: str,
    crop: Size | None,
    stride: Size | None,
    scales: Sequence[float],
    device: str,
    overlay: str,
    file_input: dict[str, Any] | None,
    **others: Any,
) -> PredictionResults:
    """Segment images and videos as `predict` does.

    Args:
        file_input: Of an ONNX or TorchScript file: `input`, `output` and `classes` as in a preset's teacher.
        others: Other fields of `PredictJob`.
    """
    check_choices(mode=mode, device=device, overlay=overlay)
    check_window(mode, crop, stride)
    checkpoint, inputs, folder, name = Path(checkpoint), paths(images), Path(out), dataset_name(dataset)
    allow_files(code)
    check_free_folder(folder, force=force)
    check_inputs(inputs)
    check_checkpoint_file(checkpoint)
    from rmrkd_cli.networks.file_options import check_for_files
    from rmrkd_cli.presets.loader import load_preset

    check_for_files(file_input, [checkpoint])
    network_preset = load_preset(preset) if preset is not None else None
    require_mmseg()
    from rmrkd_cli.distributed.device import choose_device
    from rmrkd_cli.prediction.run import PredictJob, run_predictions

    device_type, _ = choose_device(device, None)
    job = PredictJob(
        checkpoint=checkpoint, inputs=tuple(inputs), out=folder, preset=network_preset, dataset=name, mode=mode,
        crop=crop, stride=stride, scales=check_scales(scales), device=device_type, overlay=overlay,
        file_input=file_input, **others,
    )  # fmt: skip
    return run_predictions(job)
