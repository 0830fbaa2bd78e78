"""From a checkpoint to a file that other programs run, checked before it gets its name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from rmrkd_cli import __version__
from rmrkd_cli.data.transforms import NORMALIZE
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.evaluation.checkpoint_network import CheckpointNetwork, load_checkpoint_network
from rmrkd_cli.evaluation.model_card import ModelCard, Scale, model_card
from rmrkd_cli.export import onnx, torchscript
from rmrkd_cli.export.exportable import SMALLEST_SIDE, exportable, threshold_of
from rmrkd_cli.export.verify import (
    Difference,
    bounded,
    compare,
    drawn,
    drawn_batches,
    given_batches,
    milliseconds,
    normalized,
    share,
)
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.storage.atomic import save_atomic
from rmrkd_cli.storage.cache import sha256_of
from rmrkd_cli.terminal.console import say

ONNX, TORCHSCRIPT = "onnx", "torchscript"
_LOGITS = 1e-2  # share of the largest logit by which one may differ; rounding stays a thousand times below


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """What is to be written, and from what.

    Attributes:
        form: `ONNX` or `TORCHSCRIPT`.
        raw: The file takes images as they are, 0 to 255, and normalises them itself.
        classes: It gives class indices, not logits.
        tolerance: Share of pixels that may get another class than the network gives.
        check_images: A folder whose images it is checked on as well.
    """

    checkpoint: Path
    target: Path
    form: str = ONNX
    raw: bool = True
    classes: bool = False
    preset: Preset | None = None
    dataset: str | None = None
    scale: Scale | None = None
    tolerance: float = 1e-4
    check_images: Path | None = None


@dataclass(frozen=True)
class Exported:
    """The file, and how it was found to compute.

    Attributes:
        properties: What the file says of itself, by key.
        latency_ms: Of one image of `latency_size` (width, height), by the program that computes it.
    """

    job: ExportJob
    properties: dict[str, Any]
    parameters: int
    bytes: int
    differences: list[Difference]
    latency_ms: dict[str, float]
    latency_size: Scale

    def record(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "file": str(self.job.target),
            "format": self.job.form,
            "bytes": self.bytes,
            "parameters": self.parameters,
            **self.properties,
            "check": [asdict(one) for one in self.differences],
            "latency_ms": self.latency_ms,
            "latency_size": list(self.latency_size),
        }


def run_export(job: ExportJob) -> Exported:
    """Writes the file beside its place, runs it against the network, and only then gives it its name.

    Raises:
        RmrkdError: When the checkpoint describes no network.
        RunError: When it cannot be exported, its logits are far off, or more pixels than `job.tolerance` get another
            class.
    """
    if job.form == ONNX:
        onnx.check_installed()
    loaded = load_checkpoint_network(str(job.checkpoint), job.preset, "cpu")
    card = model_card(loaded, dataset=job.dataset, scale=job.scale)
    for note in card.notes:
        say(f"{job.checkpoint}: {note}")
    batches = drawn_batches(card.scale)
    if job.check_images is not None:
        batches = itertools.chain(batches, given_batches(job.check_images, card.scale))
    graph = exportable(loaded.network, raw=job.raw, classes=job.classes)
    properties = properties_of(job, loaded, card)
    found: list[Any] = []

    def write(partial: Path) -> None:
        texts = {key: json.dumps(value, ensure_ascii=True) for key, value in properties.items()}
        say(f"writing {job.form}, and running it against the network")
        if job.form == ONNX:
            onnx.write_onnx(graph, texts, partial)
        else:
            torchscript.write_torchscript(graph, texts, partial)
        found.extend(_checked(job, loaded, partial, batches))
        found.append(_latency(job, loaded, partial, bounded(card.scale)))

    save_atomic(write, job.target)
    differences = [one for one in found if isinstance(one, Difference)]
    parameters = sum(parameter.numel() for parameter in graph.parameters())
    return Exported(job, properties, parameters, job.target.stat().st_size, differences, found[-1], bounded(card.scale))


def properties_of(job: ExportJob, loaded: CheckpointNetwork, card: ModelCard) -> dict[str, Any]:
    """What whoever runs the file has to know, and where it comes from."""
    facts, threshold = loaded.facts, threshold_of(loaded.network)
    return {
        "preprocessing": {
            "input": "uint8, 0 to 255" if job.raw else "float32, (image - mean) / std of values 0 to 255",
            "layout": "NCHW",
            "channels": "RGB",
            "mean": NORMALIZE["mean"],
            "std": NORMALIZE["std"],
            "normalized_inside": job.raw,
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
        "preset": facts["name"],
        "role": facts["role"],
        "seed": facts["seed"],
        "iterations": facts["iterations"],
        "smallest_side": SMALLEST_SIDE,
        "source_sha256": sha256_of(loaded.checkpoint.path),
        "rmrkd_version": __version__,
        "torch_version": str(torch.__version__),
    }


def _runner(job: ExportJob, path: Path) -> onnx.Run:
    return onnx.onnx_runner(path) if job.form == ONNX else torchscript.torchscript_runner(path)


def _checked(
    job: ExportJob, loaded: CheckpointNetwork, path: Path, batches: Iterator[tuple[str, NDArray[Any]]]
) -> list[Difference]:
    try:
        told = compare(loaded.network.eval(), _runner(job, path), batches, job.raw)
    except RmrkdError:  # of an image
        raise
    except Exception as error:  # onnxruntime's errors have no common kind
        raise RunError(f"the {job.form} file does not run: {str(error)[:300]}") from error
    if share(told) > job.tolerance or any(one.differing / one.pixels > 10 * job.tolerance for one in told):
        worst = max(told, key=lambda one: one.differing / one.pixels)
        raise RunError(
            f"the {job.form} file gives {share(told):.2e} of all pixels another class than the network does, at most "
            f"{job.tolerance:.0e} may (most at {worst.size[0]}x{worst.size[1]}, batch {worst.batch}: {worst.differing} "
            f"of {worst.pixels}); it was not kept",
            "--tolerance SHARE allows more",
        )
    far = [one for one in told if one.logits is not None and not one.logits <= _LOGITS * one.largest]
    if far:
        raise RunError(
            f"the logits of the {job.form} file differ from the network's by {far[0].logits:.1e} at "
            f"{far[0].size[0]}x{far[0].size[1]}, whose largest is {far[0].largest:.1e}; it was not kept",
            "another format may do: OUT.pt, OUT.onnx",
        )
    return told


def _latency(job: ExportJob, loaded: CheckpointNetwork, path: Path, size: Scale) -> dict[str, float]:
    """Beside the network as `rmrkd predict` computes it, with as many threads."""
    image = drawn(size, 1)
    ready = inference_network(loaded.network, "cpu")

    @torch.inference_mode()
    def compute(batch: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = ready.encode_decode(torch.from_numpy(batch), None).numpy()  # type: ignore[operator]
        return found

    name = "onnxruntime" if job.form == ONNX else "torchscript"
    return {
        "torch": milliseconds(compute, normalized(image)),
        name: milliseconds(_runner(job, path), image if job.raw else normalized(image)),
    }
