"""Export networks from Python, as `rmrkd export` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.api.checks import Size, check_choices, path_or_none
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.exporters.quantization_settings import CALIBRATION_IMAGES, MAX_LOSS, WEIGHT_BITS, check_quantization
from rmrkd_cli.installation.mmseg import require_mmseg
from rmrkd_cli.presets.dataset_names import dataset_name
from rmrkd_cli.presets.user_code import allow_files
from rmrkd_cli.storage.folder_contents import network_path
from rmrkd_cli.storage.output_paths import check_free_folder, check_inputs, check_new_file

if TYPE_CHECKING:
    from rmrkd_cli.exporters.hub import HubFolder
    from rmrkd_cli.exporters.run import ExportResult

FORMATS = {".onnx": "onnx", ".pt": "torchscript", ".torchscript": "torchscript"}


def export(
    checkpoint: str | Path,
    target: str | Path | None = None,
    *,
    format: str | None = None,
    input: str = "raw",
    output: str = "logits",
    scale: Size | None = None,
    dataset: str | None = None,
    force: bool = False,
    preset: str | None = None,
    code: Sequence[str] = (),
    check_images: str | Path | None = None,
    tolerance: float | None = None,
    quantize: str | None = None,
    calibration: str | Path | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    weight_bits: int = WEIGHT_BITS,
    max_loss: float = MAX_LOSS,
    data_root: str | Path | None = None,
    hub: str | Path | None = None,
) -> ExportResult | HubFolder:
    """Export a network to ONNX or TorchScript, and keep the file only if it computes the same. Or write a hub folder.

    Args:
        checkpoint: A student or another checkpoint.
        target: A new file; None: only the folder of `hub`.
        format: "onnx" or "torchscript"; None: by the ending of `target`.
        input: "raw" for RGB images of 0 to 255 (uint8), or "normalized" (float32).
        output: "logits" or "classes".
        scale: (width, height) that the network expects, to be recorded; None: as in the evaluation.
        dataset: Record the class names of this data set; None: the checkpoint's.
        force: Replace `target` and the files in `hub` if they exist.
        preset: Name or file of a preset, for a checkpoint that does not describe its network.
        code: Python files that may run, where one of them builds the network.
        check_images: Compare the file with the network on the first 32 images of this folder too.
        tolerance: Largest share of pixels that may get another class, 0 to 1. None: 0.0001, and 0.05 for INT8 where no
            mIoU can be measured.
        quantize: "int8" for 8-bit integers in an ONNX file, which needs `calibration`.
        calibration: Folder of images, without label maps, that give the ranges of the network's values.
        calibration_images: How many of them to use.
        weight_bits: 8, or 7 for x86 CPUs without VNNI, whose 8-bit sums can saturate.
        max_loss: Largest loss of mIoU by INT8, in points.
        data_root: Folder of the data set whose validation images measure it; None: the checkpoint's, if it is there.
        hub: A new folder for the Hugging Face hub: weights, config, preprocessing, a model card, and `target`.

    Returns:
        Of `target`: size, metadata, latency, and the differences that were found. Without `target`: the files of `hub`.

    Raises:
        RmrkdError: For a wrong argument or file.
        RunError: If torch cannot export the network, or the file computes something else.
    """
    quantization: dict[str, Any] = {
        "quantize": quantize, "calibration": path_or_none(calibration), "calibration_images": calibration_images,
        "weight_bits": weight_bits, "max_loss": max_loss,
        "data_root": str(data_root) if data_root is not None else None,
    }  # fmt: skip
    exported, folder = export_with(
        network_path(Path(checkpoint)), path_or_none(target), path_or_none(hub), format=format, input=input,
        output=output, scale=scale, dataset=dataset, force=force, preset=preset, code=code, tolerance=tolerance,
        check_images=path_or_none(check_images), quantization=quantization,
    )  # fmt: skip
    result = exported or folder
    assert result is not None
    return result


def export_with(
    checkpoint: Path,
    target: Path | None,
    hub: Path | None,
    *,
    format: str | None,
    input: str,
    output: str,
    scale: Size | None,
    dataset: str | None,
    force: bool,
    preset: str | None,
    code: Sequence[str],
    tolerance: float | None,
    check_images: Path | None,
    quantization: dict[str, Any],
) -> tuple[ExportResult | None, HubFolder | None]:
    """Write the file, the folder or both, as `export` does.

    Args:
        quantization: The settings of `exporters.quantization_settings.check_quantization`.
    """
    name = dataset_name(dataset)
    allow_files(code)
    chosen = choose_format(format, target, hub)
    check_choices(input=input)
    if output not in ("logits", "classes"):
        raise RmrkdError(f"`output` must be logits or classes, got `{output}`", 'output="logits"')
    check_new_file(target, force=force, inputs=[checkpoint])
    check_free_folder(hub, force=force)
    check_inputs([check_images] if check_images is not None else [])
    int8 = check_quantization(**quantization, onnx=target is not None and chosen == "onnx")
    from rmrkd_cli.presets.loader import load_preset

    network_preset = load_preset(preset) if preset is not None else None
    require_mmseg()
    from rmrkd_cli.exporters.hub import write_hub_folder
    from rmrkd_cli.exporters.run import ExportJob, run_export

    described: dict[str, Any] = {"preset": network_preset, "dataset": name, "scale": scale}
    exported = folder = None
    if target is not None:
        job = ExportJob(
            checkpoint=checkpoint, target=target, format=chosen, input=input, output=output, tolerance=tolerance,
            check_images=check_images, **described, **int8,
        )  # fmt: skip
        exported = run_export(job)
    if hub is not None:
        folder = write_hub_folder(checkpoint, hub, exported=target, **described)
    return exported, folder


def choose_format(chosen: str | None, target: Path | None, hub: Path | None = None) -> str:
    """Return the format that `format` or the ending of the file names.

    Raises:
        RmrkdError: If neither names one, or they contradict each other, or nothing is to be written.
    """
    if target is None:
        if hub is None:
            raise RmrkdError("no file and no folder to write are given", "OUT.onnx, OUT.pt, or --hub DIR")
        return chosen or "onnx"
    by_suffix = FORMATS.get(target.suffix)
    if by_suffix is None and chosen is None:
        raise RmrkdError(f"`{target.name}` must end in {', '.join(FORMATS)}", "OUT.onnx, or OUT.pt")
    if by_suffix is not None and chosen is not None and by_suffix != chosen:
        raise RmrkdError(f"`{target.name}` does not end like a {chosen} file", "leave out --format")
    return chosen or by_suffix or "onnx"
