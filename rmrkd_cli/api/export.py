"""Export networks from Python, as `rmrkd export` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rmrkd_cli.api.checks import Size, check_choices, path_or_none
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.installation.mmseg import require_mmseg
from rmrkd_cli.presets.dataset_names import dataset_name
from rmrkd_cli.presets.user_code import allow_files
from rmrkd_cli.storage.output_paths import check_inputs, check_new_file

if TYPE_CHECKING:
    from rmrkd_cli.exporters.run import ExportResult

FORMATS = {".onnx": "onnx", ".pt": "torchscript", ".torchscript": "torchscript"}


def export(
    checkpoint: str | Path,
    target: str | Path,
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
    tolerance: float = 1e-4,
) -> ExportResult:
    """Export a network to ONNX or TorchScript, and keep the file only if it computes the same.

    Args:
        checkpoint: A student or another checkpoint.
        target: A new file.
        format: "onnx" or "torchscript"; None: by the ending of `target`.
        input: "raw" for RGB images of 0 to 255 (uint8), or "normalized" (float32).
        output: "logits" or "classes".
        scale: (width, height) that the network expects, to be recorded; None: as in the evaluation.
        dataset: Record the class names of this data set; None: the checkpoint's.
        force: Replace `target` if it exists.
        preset: Name or file of a preset, for a checkpoint that does not describe its network.
        code: Python files that may run, where one of them builds the network.
        check_images: Compare the file with the network on the first 32 images of this folder too.
        tolerance: Largest share of pixels that may get another class, 0 to 1.

    Returns:
        Size, metadata, latency, and the differences that were found.

    Raises:
        RmrkdError: For a wrong argument or file.
        RunError: If torch cannot export the network, or the file computes something else.
    """
    checkpoint, target, name = Path(checkpoint), Path(target), dataset_name(dataset)
    allow_files(code)
    chosen = choose_format(format, target)
    check_choices(input=input)
    if output not in ("logits", "classes"):
        raise RmrkdError(f"`output` must be logits or classes, got `{output}`", 'output="logits"')
    check_new_file(target, force=force, inputs=[checkpoint])
    folder = path_or_none(check_images)
    check_inputs([folder] if folder is not None else [])
    from rmrkd_cli.presets.loader import load_preset

    network_preset = load_preset(preset) if preset is not None else None
    require_mmseg()
    from rmrkd_cli.exporters.run import ExportJob, run_export

    job = ExportJob(
        checkpoint=checkpoint, target=target, format=chosen, input=input, output=output, preset=network_preset,
        dataset=name, scale=scale, tolerance=tolerance, check_images=folder,
    )  # fmt: skip
    return run_export(job)


def choose_format(chosen: str | None, target: Path) -> str:
    """Return the format that `format` or the ending of the file names.

    Raises:
        RmrkdError: If neither names one, or they contradict each other.
    """
    by_suffix = FORMATS.get(target.suffix)
    if by_suffix is None and chosen is None:
        raise RmrkdError(f"`{target.name}` must end in {', '.join(FORMATS)}", "OUT.onnx, or OUT.pt")
    if by_suffix is not None and chosen is not None and by_suffix != chosen:
        raise RmrkdError(f"`{target.name}` does not end like a {chosen} file", "leave out --format")
    return chosen or by_suffix or "onnx"
