"""Export a checkpoint: write the file under a temporary name, compare it with the network, then rename it."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from rmrkd_cli import __version__
from rmrkd_cli.data.transforms import NORMALIZE
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.evaluation.checkpoint_network import CheckpointNetwork, load_checkpoint_network
from rmrkd_cli.evaluation.latency import summarize_times, time_in_turns
from rmrkd_cli.evaluation.model_card import ModelCard, Scale, model_card
from rmrkd_cli.exporters import onnx, torchscript
from rmrkd_cli.exporters.graph import MIN_SIDE, ExportGraph, build_graph
from rmrkd_cli.exporters.verify import (
    Batches,
    Difference,
    changed_share,
    check_size,
    compare_outputs,
    image_batches,
    normalize,
    synthetic_batches,
    synthetic_images,
)
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.feature_maps import segment
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.storage.atomic import save_atomic
from rmrkd_cli.storage.cache import sha256_of
from rmrkd_cli.terminal.messages import log

ONNX, TORCHSCRIPT = "onnx", "torchscript"
_SECONDS = 4.0  # of timing, for the network and for the file
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
        tolerance: Largest share of pixels (0 to 1) whose class may differ between file and network.
        check_images: Compare the outputs on the images of this folder as well.
    """

    checkpoint: Path
    target: Path
    format: str = ONNX
    input: str = "raw"
    output: str = "logits"
    preset: Preset | None = None
    dataset: str | None = None
    scale: Scale | None = None
    tolerance: float = 1e-4
    check_images: Path | None = None

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
    batches: Batches = synthetic_batches(card.scale)
    if job.check_images is not None:
        batches = itertools.chain(batches, image_batches(job.check_images, card.scale, card.max_value))
    graph = build_graph(model.network, raw=job.raw, classes=job.classes)
    properties = file_properties(job, model, card)
    size = check_size(card.scale)
    differences: list[Difference] = []
    latency: dict[str, dict[str, Any]] = {}

    def write_and_check(partial: Path) -> None:
        log(f"writing {job.format} and comparing its outputs with the network's")
        _write_graph(job.format, graph, properties, partial)
        differences.extend(_check_outputs(job, model, partial, batches))
        latency.update(_measure_latency(job, model, partial, size))

    save_atomic(write_and_check, job.target)
    parameters = sum(parameter.numel() for parameter in graph.parameters())
    return ExportResult(job, properties, parameters, job.target.stat().st_size, differences, latency, size)


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
    texts = {key: json.dumps(value, ensure_ascii=True) for key, value in properties.items()}
    write = onnx.write_onnx if form == ONNX else torchscript.write_torchscript
    write(graph, texts, path)


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
    share = changed_share(differences)
    worst = max(differences, key=lambda one: one.differing / one.pixels)
    if share > job.tolerance or worst.differing / worst.pixels > 10 * job.tolerance:
        raise RunError(
            f"the {job.format} file assigns another class than the network to {share:.2e} of the pixels, the limit is "
            f"{job.tolerance:.0e} (worst batch: {worst.differing} of {worst.pixels} pixels, "
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


def _measure_latency(job: ExportJob, model: CheckpointNetwork, path: Path, size: Scale) -> dict[str, dict[str, Any]]:
    """Time the file, and the network as `rmrkd predict` runs it, in turns and with the same number of threads."""
    image = synthetic_images(size, 1)
    network = inference_network(model.network, "cpu")

    @torch.inference_mode()
    def run_torch(batch: NDArray[Any]) -> NDArray[Any]:
        logits: NDArray[Any] = segment(network, torch.from_numpy(batch)).numpy()
        return logits

    run_file, file_input = _load_runner(job.format, path), image if job.raw else normalize(image)
    torch_input = normalize(image)
    times, load = time_in_turns([lambda: run_torch(torch_input), lambda: run_file(file_input)], _SECONDS)
    facts = {"device": "cpu", "threads": torch.get_num_threads(), **load}
    runtime = "onnxruntime" if job.format == ONNX else "torchscript"
    return {name: {**summarize_times(own), **facts} for name, own in zip(("torch", runtime), times, strict=True)}
