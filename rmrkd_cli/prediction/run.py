"""Predict images and videos: label PNGs, overlays, a legend, and the pixel share of each class."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data import loader_server
from rmrkd_cli.data.deep_image import describe_clipping
from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.data.loader import prefetch_images, report_lost_loaders
from rmrkd_cli.data.transforms import EvalViews, View
from rmrkd_cli.distributed.process_group import distributed_context
from rmrkd_cli.errors import CorruptFileError, Interrupted, RmrkdError
from rmrkd_cli.evaluation.checkpoint_network import load_checkpoint_network
from rmrkd_cli.evaluation.label_png import MAX_CLASSES, LabelMap, pixel_shares, write_image, write_label_png
from rmrkd_cli.evaluation.model_card import ModelCard, Scale, model_card
from rmrkd_cli.evaluation.windows import choose_window
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.prediction.inputs import ImageSet, Input, find_inputs
from rmrkd_cli.prediction.legend import add_legend, draw_class_legend
from rmrkd_cli.prediction.overlay import Overlay
from rmrkd_cli.prediction.results import (
    MIN_REDUCTION,
    PredictionResults,
    Shrunk,
    clipped_shares,
    reduction_note,
    shares_csv,
    to_json,
)
from rmrkd_cli.prediction.segmenter import Segmenter
from rmrkd_cli.prediction.video import SUFFIX, VideoReader, new_video
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.signals import stop_requests
from rmrkd_cli.storage.atomic import write_text
from rmrkd_cli.terminal.live_display import LiveDisplay, live_display

_MIN_DECODED = 0.95  # of the frames that a video claims to have


@dataclass(frozen=True, kw_only=True)
class PredictJob:
    """The arguments of `run_predictions`; the names are those of the options of `rmrkd predict`.

    Attributes:
        checkpoint: A file that contains a student or another segmentation network.
        inputs: Images, videos, and folders of them.
        out: Output folder; existing files in it are replaced, except inputs.
        preset: Take the network from this preset if the checkpoint does not describe it.
        dataset: Take class names, palette and scale from this built-in data set.
        scale: (width, height) in pixels that images are fitted into; None: as in the checkpoint.
        max_value: The value of white in images beyond 8 bits; None: as in the checkpoint.
        mode: "whole", or "slide" for a sliding window.
        crop, stride: (height, width) of the window and of its stride in pixels; None: as in the checkpoint.
        scales: Average over images at these factors of `scale`.
        flip: Average with the mirrored image.
        device: "cpu" or "cuda".
        workers: Loader processes.
        overlay: Format of the overlays, "png", "jpg" or "none".
        opacity: Of the colours in an overlay, from 0 to 1.
        legend: Draw a legend below each overlay.
        frames: Write the label PNGs of the frames of a video.
        file_input: For an ONNX or TorchScript file: `input`, `output` and `classes` as in a preset's teacher.
    """

    checkpoint: Path
    inputs: tuple[Path, ...]
    out: Path
    preset: Preset | None = None
    dataset: str | None = None
    scale: Scale | None = None
    max_value: float | None = None
    mode: str = "whole"
    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    device: str = "cpu"
    workers: int = 2
    overlay: str = "png"
    opacity: float = 0.5
    legend: bool = True
    frames: bool = False
    file_input: dict[str, Any] | None = None


def run_predictions(job: PredictJob) -> PredictionResults:
    """Predict every input and write legend.png, predictions.json and predictions.csv to the output folder.

    An unreadable input is listed in the results and does not stop the others. Progress goes to stderr.

    Raises:
        RmrkdError: The checkpoint describes no network, or there is nothing to predict.
        Interrupted: A signal stopped the run; the files written until then are complete.
    """
    loader_server.start_loader_server(job.workers)
    described: dict[str, Any] = {"file_input": job.file_input, "dataset": job.dataset}
    model = load_checkpoint_network(str(job.checkpoint), job.preset, job.device, **described)
    card = model_card(model, dataset=job.dataset, scale=job.scale)
    if (count := len(card.classes)) > MAX_CLASSES:
        raise RmrkdError(f"`{job.checkpoint}` predicts {count} classes, a label PNG can hold at most {MAX_CLASSES}")
    passed_over: list[Path] = []
    inputs = find_inputs(job.inputs, passed_over=passed_over, exclude=job.out)
    _protect_inputs(inputs, job)
    with report_lost_loaders(), distributed_context(job.device) as dist_ctx, live_display() as display:
        for note in card.notes:
            display.log(f"{job.checkpoint}: {note}")
        network = inference_network(model.network.to(dist_ctx.device), dist_ctx.device.type)
        window = choose_window(model, job.mode, job.crop, job.stride, display.log)
        segmenter = Segmenter(network, dist_ctx.device, EvalViews(card.scale, job.scales, job.flip), window)
        run = _PredictionRun(job, card, segmenter, display)
        run.results.passed_over = passed_over
        with stop_requests() as stop:
            run.predict_images([item for item in inputs if not item.is_video], lambda: stop.signum)
            run.predict_videos([item for item in inputs if item.is_video], lambda: stop.signum)
            run.write_summary()
        if stop.signum:
            name = signal.Signals(stop.signum).name
            raise Interrupted(
                stop.signum,
                f"stopped by {name} after {len(run.results.entries)} of {len(inputs)} inputs; their files in "
                f"`{job.out}` are complete",
            )
    return run.results


def _protect_inputs(inputs: list[Input], job: PredictJob) -> None:
    """Raise RmrkdError if an output would replace an input, which `--force` allows for other files only."""
    taken = {item.path.resolve() for item in inputs}
    for item in inputs:
        files = [f"{item.name}.png", f"{item.name}-overlay.{job.overlay}", f"{item.name}-overlay{SUFFIX}"]
        for path in (job.out / name for name in files):
            if path.resolve() in taken:
                raise RmrkdError(f"`{path}` is an input and would be replaced", "choose another folder with --out DIR")


class _PredictionRun:
    """Writes the outputs of one `run_predictions`, in the order of the inputs."""

    def __init__(self, job: PredictJob, card: ModelCard, segmenter: Segmenter, display: LiveDisplay) -> None:
        self.job, self.card, self.segmenter, self.display = job, card, segmenter, display
        self.results = PredictionResults(card)
        self.overlay = Overlay(card.classes, card.palette, job.opacity)

    def predict_images(self, inputs: list[Input], stop_signal: Callable[[], int]) -> None:
        max_value = self.job.max_value if self.job.max_value is not None else self.card.max_value
        images = ImageSet(inputs, self.segmenter.views, max_value)
        progress_bar = self.display.progress_bar("images", len(inputs)) if inputs else None
        pin = self.segmenter.device.type == "cuda"
        loaded = prefetch_images(images, len(inputs), self.job.workers, pin=pin)
        for done, (item, result) in enumerate(zip(inputs, loaded, strict=True), 1):
            if stop_signal():
                break
            if isinstance(result, CorruptFileError):
                self._skip(result)
            elif isinstance(result, RmrkdError):
                raise result
            elif problem := self.segmenter.size_problem(result.image, result.views):
                self._skip(CorruptFileError(f"`{item.path}`: {problem}"))
            else:
                labels = self.segmenter.segment(result.views)
                entry = self._write_image(item, result.image, labels)
                self.results.entries.append({**entry, **self._network_size(item, labels.shape, result.views)})
                if result.pages > 1:
                    self.results.paged.append((item.path, result.pages))
                if result.values is not None and describe_clipping([result.values]):
                    self.results.clipped.append((item.path, result.values))
            if progress_bar is not None:
                progress_bar.update(done)
        if progress_bar is not None:
            progress_bar.close()

    def predict_videos(self, inputs: list[Input], stop_signal: Callable[[], int]) -> None:
        for item in inputs:
            if stop_signal():
                break
            try:
                entry = self._predict_video(item, stop_signal)
            except CorruptFileError as error:
                self._skip(error)
            else:
                if entry is not None:
                    self.results.entries.append(entry)

    def write_summary(self) -> None:
        """Write the legend, JSON and CSV for all inputs that were predicted, also after a signal."""
        out, card, results, window = self.job.out, self.card, self.results, self.segmenter.window
        write_image(draw_class_legend(card.classes, card.palette), out / "legend.png")
        contents = {
            "checkpoint": str(self.job.checkpoint),
            "dataset": card.dataset,
            "scale": list(card.scale) if card.scale is not None else None,
            "scales": list(self.job.scales),
            "flip": self.job.flip,
            "classes": list(card.classes),
            "palette": [list(colour) for colour in card.palette],
            "mode": self.job.mode,
            "window": list(window.crop) if window is not None else None,
            "stride": list(window.stride) if window is not None else None,
            "inputs": results.entries,
            "unread": results.unread,
            "passed_over": [str(path) for path in results.passed_over],
            "paged": [{"input": str(path), "pages": pages} for path, pages in results.paged],
            "clipped": clipped_shares(results.clipped),
        }
        write_text(to_json(contents), out / "predictions.json")
        write_text(shares_csv(card.classes, results.entries), out / "predictions.csv")

    def _network_size(self, item: Input, shape: tuple[int, ...], views: list[View]) -> dict[str, list[int]]:
        """Return the (width, height) of the largest view, and note an input that was reduced."""
        height, width = max((view.shape[2:] for view, _ in views), key=math.prod)
        shrunk = Shrunk(item.path, (shape[1], shape[0]), (width, height), self.segmenter.window is not None)
        if shrunk.factor >= MIN_REDUCTION:
            if not self.results.shrunk:
                self.display.log(reduction_note([shrunk]))
            self.results.shrunk.append(shrunk)
        return {"network_size": [width, height]}

    def _skip(self, error: CorruptFileError) -> None:
        self.results.unread.append(error.message)
        self.display.log(f"skipped: {error.message}")

    def _write_image(self, item: Input, image: Picture, labels: LabelMap) -> dict[str, Any]:
        job = self.job
        write_label_png(labels, self.card.palette, job.out / f"{item.name}.png")
        shares = pixel_shares(labels, len(self.card.classes))
        entry: dict[str, Any] = {"input": str(item.path), "index": f"{item.name}.png"}
        if job.overlay != "none":
            entry["overlay"] = f"{item.name}-overlay.{job.overlay}"
            drawing = self.overlay.draw(image, labels)
            if job.legend:
                rows = [(self.card.classes[k], self.card.palette[k], float(shares[k])) for k in np.flatnonzero(shares)]
                drawing = add_legend(drawing, rows)
            write_image(drawing, job.out / entry["overlay"])
        return {**entry, **self._size_and_shares(labels.shape, shares)}

    def _predict_video(self, item: Input, stop_signal: Callable[[], int]) -> dict[str, Any] | None:
        """Write the overlay of a video and return its entry; None if a signal came, which leaves no file."""
        reader = VideoReader(item.path)
        overlay = f"{item.name}-overlay{SUFFIX}"
        try:
            with new_video(self.job.out / overlay, reader.info.rate) as writer:
                total, count, shape = self._predict_frames(item, reader, writer.add, stop_signal)
                if stop_signal():
                    raise _Stopped
        except _Stopped:
            return None
        finally:
            reader.close()
        if shape[0] % 2 or shape[1] % 2:
            self.display.log(f"{overlay}: the last row or column is cut off, because codecs need even sizes")
        if count < _MIN_DECODED * reader.info.frames - 1:  # the number of frames can be an estimate
            frames = f"{count} of {reader.info.frames} frames"
            self._skip(CorruptFileError(f"`{item.path}`: only {frames} could be decoded and written"))
        entry = {"input": str(item.path), "overlay": overlay, "frames": count, "frames_per_second": reader.info.rate}
        return {**entry, **self._size_and_shares(shape, total / count)}

    def _predict_frames(
        self, item: Input, reader: VideoReader, add: Callable[[Picture], None], stop_signal: Callable[[], int]
    ) -> tuple[NDArray[np.float64], int, tuple[int, ...]]:
        """Return the sum of the pixel shares, the number of frames and (height, width)."""
        total, count, shape = np.zeros(len(self.card.classes)), 0, (0, 0)
        progress_bar = self.display.progress_bar(item.path.name, reader.info.frames or 1)
        for count, frame in enumerate(reader, 1):
            views = self.segmenter.views(frame)
            if problem := self.segmenter.size_problem(frame, views):
                raise CorruptFileError(f"`{item.path}`: {problem}")
            if count == 1:
                self._network_size(item, frame.shape, views)
            labels = self.segmenter.segment(views)
            add(self.overlay.blend(frame, labels))
            if self.job.frames:
                path = self.job.out / f"{item.name}-frames" / f"{count - 1:06d}.png"
                write_label_png(labels, self.card.palette, path)
            total += pixel_shares(labels, len(self.card.classes))
            shape = labels.shape
            if progress_bar is not None:
                progress_bar.update(count)
            if stop_signal():
                break
        if progress_bar is not None:
            progress_bar.close()
        return total, count, shape

    def _size_and_shares(self, shape: tuple[int, ...], shares: NDArray[np.float64]) -> dict[str, Any]:
        named = {self.card.classes[number]: round(float(shares[number]), 6) for number in np.flatnonzero(shares)}
        return {"width": shape[1], "height": shape[0], "shares": named}


class _Stopped(Exception):
    """A signal came in the middle of a video."""
