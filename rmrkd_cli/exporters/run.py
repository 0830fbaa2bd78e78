"""Export a checkpoint: write the file under a temporary name, compare it with the network, then rename it."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rmrkd_cli import __version__
from rmrkd_cli.data.transforms import NORMALIZE
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.evaluation.checkpoint_network import CheckpointNetwork, load_checkpoint_network
from rmrkd_cli.evaluation.model_card import ModelCard, Scale, model_card
from rmrkd_cli.exporters import int8, onnx, torchscript
from rmrkd_cli.exporters.calibration import choose_images
from rmrkd_cli.exporters.graph import MIN_SIDE, ExportGraph, build_graph
from rmrkd_cli.exporters.quantization_settings import CALIBRATION_IMAGES, MAX_LOSS, WEIGHT_BITS
from rmrkd_cli.exporters.quantized import quantize_checked
from rmrkd_cli.exporters.timing import measure_file_latency
from rmrkd_cli.exporters.verify import (
    Batches,
    Difference,
    changed_share,
    check_size,
    compare_outputs,
    image_batches,
    synthetic_batches,
)
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.storage.atomic import save_atomic
from rmrkd_cli.storage.cache import sha256_of
from rmrkd_cli.terminal.messages import log

ONNX, TORCHSCRIPT = "onnx", "torchscript"
_TOLERANCE = 1e-4
_MAX_LOGIT_ERROR = 1e-2  # relative to the largest logit; rounding is a thousand times smaller


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """The arguments of `run_export`; the names are those of the options of `rmrkd export`.

    Attributes:
        checkpoint: A file that contains a student or another segmentation network.
        target: The file to write; an existing file is replaced.
        format: "onnx" or "torchscript".
        input: "raw": the file takes uint8 images and normalizes them; "normalized": it takes normalized float32.
        output: "logits", or "classes" for class indices.
        preset: Take the network from this preset if the checkpoint does not describe it.
        dataset: Take class names, palette and scale from this built-in data set.
        scale: (width, height) in pixels that images are fitted into; None: as in the checkpoint.
        tolerance: Largest share of pixels (0 to 1) whose class may differ between file and network, or between INT8 and
            float. None: 0.0001, and 0.05 for INT8 where no mIoU can be measured.
        check_images: Compare the outputs on the images of this folder as well.
        quantize: "int8", or None for float32. INT8 is written as ONNX.
        calibration: Folder of the images that INT8 is calibrated and measured with.
        calibration_images: How many of them to calibrate with.
        weight_bits: 8, or 7 for x86 CPUs without VNNI, where sums of 8-bit products can saturate.
        max_loss: Largest loss of mIoU by INT8, in points, where label maps are found.
        data_root: Folder of the data set whose validation images measure the mIoU; None: the data set's own.
    """

    checkpoint: Path
    target: Path
    format: str = ONNX
    input: str = "raw"
    output: str = "logits"
    preset: Preset | None = None
    dataset: str | None = None
    scale: Scale | None = None
    tolerance: float | None = None
    check_images: Path | None = None
    quantize: str | None = None
    calibration: Path | None = None
    calibration_images: int = CALIBRATION_IMAGES
    weight_bits: int = WEIGHT_BITS
    max_loss: float = MAX_LOSS
    data_root: str | None = None

    @property
    def raw(self) -> bool:
        return self.input == "raw"

    @property
    def classes(self) -> bool:
        return self.output == "classes"


@dataclass(frozen=True)
class ExportResult:
    """An exported file and the result of its check.

    Attributes:
        properties: The metadata inside the file, by key.
        parameters: Number of parameters.
        bytes: Size of the file.
        differences: Between file and network, one per batch.
        latency: Milliseconds per image of `latency_size` (width, height), for torch and for the runtime: median,
            quartiles and the load of the machine, see `evaluation.latency`.
    """

    job: ExportJob
    properties: dict[str, Any]
    parameters: int
    bytes: int
    differences: list[Difference]
    latency: dict[str, dict[str, Any]]
    latency_size: Scale

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data, as `rmrkd export --json` writes it."""
        return {
            "file": str(self.job.target),
            "format": self.job.format,
            "bytes": self.bytes,
            "parameters": self.parameters,
            **self.properties,
            "check": [asdict(difference) for difference in self.differences],
            "latency_ms": {name: times["median_ms"] for name, times in self.latency.items()},
            "latency": self.latency,
            "latency_size": list(self.latency_size),
        }


def run_export(job: ExportJob) -> ExportResult:
    """Write a network as an ONNX or TorchScript file, and keep the file only if it computes the same.

    Progress and notes go to stderr.

    Raises:
        RmrkdError: The checkpoint describes no network, a package is missing, or a check image cannot be read.
        RunError: torch cannot export the network, the logits differ, or more than `job.tolerance` of the pixels get
            another class.
    """
    model, card = _load(job)
    images = choose_images(job.calibration, job.calibration_images) if job.calibration is not None else None
    graph = build_graph(model.network, raw=job.raw, classes=job.classes)
    properties = file_properties(job, model, card)
    size = check_size(card.scale)
    differences: list[Difference] = []
    latency: dict[str, dict[str, Any]] = {}

    def write_and_check(unfinished: Path) -> None:
        log(f"writing {job.format} and comparing its outputs with the network's")
        with _float_file(unfinished, temporary=images is not None) as file:
            _write_graph(job.format, graph, properties, file)
            differences.extend(_check_outputs(job, model, file, _batches(job, card)))
            files = {"onnxruntime" if job.format == ONNX else "torchscript": file}
            if images is not None:
                properties["quantization"] = quantize_checked(job, model, card, images, file, unfinished)
                files = {"onnxruntime_float": file, "onnxruntime_int8": unfinished}
            runners = {name: _load_runner(job.format, path) for name, path in files.items()}
            latency.update(measure_file_latency(model.network, runners, size, raw=job.raw))
        if images is not None:
            properties["quantization"] |= {"latency": latency, "latency_size": list(size)}
            int8.write_metadata(unfinished, _texts(properties))

    save_atomic(write_and_check, job.target)
    parameters = sum(parameter.numel() for parameter in graph.parameters())
    return ExportResult(job, properties, parameters, job.target.stat().st_size, differences, latency, size)


def _load(job: ExportJob) -> tuple[CheckpointNetwork, ModelCard]:
    """Return the network to export, and its model card."""
    if job.format == ONNX:
        onnx.check_installed()
    model = load_checkpoint_network(str(job.checkpoint), job.preset, "cpu")
    if adapter_of(model.network).only_logits:
        raise RmrkdError(
            f"`{job.checkpoint}` is exported already: it is an ONNX or TorchScript file", "give the checkpoint"
        )
    card = model_card(model, dataset=job.dataset, scale=job.scale)
    for note in card.notes:
        log(f"{job.checkpoint}: {note}")
    return model, card


def _batches(job: ExportJob, card: ModelCard) -> Batches:
    """Return the images on which the file is compared with the network."""
    batches: Batches = synthetic_batches(card.scale)
    if job.check_images is not None:
        batches = itertools.chain(batches, image_batches(job.check_images, card.scale, card.max_value))
    return batches


@contextmanager
def _float_file(path: Path, *, temporary: bool) -> Iterator[Path]:
    """Yield where the float file is written: the path, or a file that is deleted when the block ends."""
    if not temporary:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rmrkd-") as folder:
        yield Path(folder) / "float.onnx"


def file_properties(job: ExportJob, model: CheckpointNetwork, card: ModelCard) -> dict[str, Any]:
    """Return the metadata of the file: preprocessing, output, classes, and the checkpoint it comes from."""
    metadata, threshold = model.metadata, adapter_of(model.network).threshold
    return {
        "preprocessing": {
            "input": "uint8, 0 to 255" if job.raw else "float32, (image - mean) / std of values 0 to 255",
            "layout": "NCHW",
            "channels": "RGB",
            "mean": NORMALIZE["mean"],
            "std": NORMALIZE["std"],
            "normalized_inside": job.raw,
            "max_value": card.max_value,  # becomes 255, in images beyond 8 bits
            "resize": {
                "size": list(card.scale) if card.scale is not None else None,
                "keep_ratio": True,
                "rule": "longer side at most max(size), shorter at most min(size), rounded half up",
                "interpolation": "bilinear, half-pixel centres, no antialiasing",
            },
        },
        "output": "classes" if job.classes else "logits",
        "decision": "argmax" if threshold is None else f"class 1 where the sigmoid of the logit exceeds {threshold:g}",
        "classes": list(card.classes),
        "palette": [list(colour) for colour in card.palette],
        "dataset": card.dataset,
        "preset": metadata["name"],
        "role": metadata["role"],
        "seed": metadata["seed"],
        "iterations": metadata["iterations"],
        "smallest_side": MIN_SIDE,
        "source_sha256": sha256_of(model.checkpoint.path),
        "rmrkd_version": __version__,
        "torch_version": str(torch.__version__),
    }


def _write_graph(form: str, graph: ExportGraph, properties: dict[str, Any], path: Path) -> None:
    write = onnx.write_onnx if form == ONNX else torchscript.write_torchscript
    write(graph, _texts(properties), path)


def _texts(properties: Mapping[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value, ensure_ascii=True) for key, value in properties.items()}


def _load_runner(form: str, path: Path) -> onnx.Runner:
    return onnx.onnx_runner(path) if form == ONNX else torchscript.torchscript_runner(path)


def _check_outputs(job: ExportJob, model: CheckpointNetwork, path: Path, batches: Batches) -> list[Difference]:
    """Return the differences between file and network. Raises RunError if they are too large."""
    try:
        differences = compare_outputs(model.network.eval(), _load_runner(job.format, path), batches, job.raw)
    except RmrkdError:  # a check image cannot be read
        raise
    except Exception as error:  # onnxruntime's errors have no common base class
        raise RunError(f"the {job.format} file does not run: {str(error)[:300]}") from error
    tolerance = _TOLERANCE if job.tolerance is None or job.quantize is not None else job.tolerance
    share = changed_share(differences)
    worst = max(differences, key=lambda one: one.differing / one.pixels)
    if share > tolerance or worst.differing / worst.pixels > 10 * tolerance:
        raise RunError(
            f"the {job.format} file assigns another class than the network to {share:.2e} of the pixels, the limit is "
            f"{tolerance:.0e} (worst batch: {worst.differing} of {worst.pixels} pixels, "
            f"{worst.size[0]}x{worst.size[1]}, batch size {worst.batch}); the file was not kept",
            "--tolerance SHARE raises the limit",
        )
    for one in differences:
        if one.logits is not None and not one.logits <= _MAX_LOGIT_ERROR * one.largest:  # `not` also catches NaN
            raise RunError(
                f"the logits of the {job.format} file differ from the network's by {one.logits:.1e} at "
                f"{one.size[0]}x{one.size[1]}, the largest logit is {one.largest:.1e}; the file was not kept",
                "try the other format: OUT.pt or OUT.onnx",
            )
    return differences
