"""Class maps of anyone's images and videos, and pictures of them."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.data.loader import prefetch_images, report_lost_loaders
from rmrkd_cli.data.transforms import EvalViews, View
from rmrkd_cli.distributed.process_group import DistContext, world
from rmrkd_cli.errors import CorruptError, Interrupted, RmrkdError
from rmrkd_cli.evaluation.checkpoint_network import load_checkpoint_network
from rmrkd_cli.evaluation.inference_modes import class_map
from rmrkd_cli.evaluation.label_png import MOST_CLASSES, ClassMap, pixel_shares, write_class_map, write_picture
from rmrkd_cli.evaluation.model_card import ModelCard, Scale, model_card
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.prediction.inputs import Input, PictureSet, find_inputs
from rmrkd_cli.prediction.legend import legend_of, with_legend
from rmrkd_cli.prediction.overlay import Overlay
from rmrkd_cli.prediction.video import SUFFIX, VideoReader, new_video
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.results.csv import to_csv
from rmrkd_cli.signals import stop_requests
from rmrkd_cli.storage.atomic import write_text
from rmrkd_cli.terminal.console import Screen, screen

_SHOWN = 10  # inputs that could not be read
_MOST_LOGITS = 1 << 31  # values of four bytes
_WHOLE = 0.95  # of the frames that a video says it has
OVERLAYS = ("png", "jpg", "none")


@dataclass(frozen=True, kw_only=True)
class PredictJob:
    """What is to be predicted, by what, and how it is shown.

    Attributes:
        out: A folder that is empty or still to be made.
        scale: (width, height) that images are fitted into; None: the checkpoint's own.
        scales: Factors on it to average over.
        overlay: One of `OVERLAYS`.
        frames: Index PNGs of a video's frames as well.
    """

    checkpoint: Path
    inputs: tuple[Path, ...]
    out: Path
    preset: Preset | None = None
    dataset: str | None = None
    scale: Scale | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    device: str = "cpu"
    workers: int = 2
    overlay: str = "png"
    opacity: float = 0.5
    legend: bool = True
    frames: bool = False


@dataclass
class Results:
    """What was written, an entry an input, and what is wrong with the others, a message each."""

    card: ModelCard
    entries: list[dict[str, Any]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def run_predictions(job: PredictJob) -> Results:
    """Predicts every input and leaves `legend.png`, `predictions.json` and `predictions.csv` beside the pictures.

    An input that cannot be read is named in the results, and the rest goes on.

    Raises:
        RmrkdError: When the checkpoint describes no network, or there is nothing to predict.
        Interrupted: After a signal; what was written until then is whole.
    """
    loaded = load_checkpoint_network(str(job.checkpoint), job.preset, job.device)
    card = model_card(loaded, dataset=job.dataset, scale=job.scale)
    if len(card.classes) > MOST_CLASSES:
        raise RmrkdError(f"`{job.checkpoint}` tells {len(card.classes)} classes apart, index PNGs hold {MOST_CLASSES}")
    inputs = find_inputs(job.inputs)
    with report_lost_loaders(), world(job.device) as dist_ctx, screen() as shown:
        for note in card.notes:
            shown.say(f"{job.checkpoint}: {note}")
        network = inference_network(loaded.network.to(dist_ctx.device), dist_ctx.device.type)
        run = _Run(job, card, _Segmenter(network, dist_ctx, EvalViews(card.scale, job.scales, job.flip)), shown)
        with stop_requests() as stop:
            run.images([item for item in inputs if not item.is_video], lambda: stop.signum)
            run.videos([item for item in inputs if item.is_video], lambda: stop.signum)
            run.finish()
        if stop.signum:
            name = signal.Signals(stop.signum).name
            raise Interrupted(
                stop.signum,
                f"stopped by {name} after {len(run.results.entries)} of {len(inputs)} inputs; those are whole, in "
                f"`{job.out}`",
            )
    return run.results


@dataclass(frozen=True)
class _Segmenter:
    """The network with all that a prediction needs."""

    network: nn.Module
    dist_ctx: DistContext
    views: EvalViews

    def of(self, views: list[View]) -> ClassMap:
        """(H, W) at the image's own size, from its views."""
        classes: ClassMap = class_map(self.network, views, self.dist_ctx.device).to("cpu", torch.uint8).numpy()
        return classes

    def too_large(self, image: Picture) -> str:
        """Why an image cannot be computed: its logits, at its own size, would take more than memory usually has."""
        values = image.shape[0] * image.shape[1] * int(self.network.num_classes)  # type: ignore[arg-type]
        if values <= _MOST_LOGITS:
            return ""
        most = _MOST_LOGITS // int(self.network.num_classes)  # type: ignore[arg-type]
        return f"{image.shape[1]}x{image.shape[0]} pixels would take {4e-9 * values:.0f} GB, at most {most} can be done"


class _Run:
    """One command's outputs, in the order in which they come."""

    def __init__(self, job: PredictJob, card: ModelCard, segmenter: _Segmenter, shown: Screen) -> None:
        self.job, self.card, self.segmenter, self.shown = job, card, segmenter, shown
        self.results = Results(card)
        self.overlay = Overlay(card.classes, card.palette, job.opacity)

    def images(self, inputs: list[Input], stopped: Callable[[], int]) -> None:
        pictures = PictureSet(inputs, self.segmenter.views)
        meter = self.shown.meter("images", len(inputs)) if inputs else None
        pin = self.segmenter.dist_ctx.device.type == "cuda"
        ahead = prefetch_images(pictures, len(inputs), self.job.workers, pin=pin)
        for done, (item, found) in enumerate(zip(inputs, ahead, strict=True), 1):
            if stopped():
                break
            if isinstance(found, CorruptError):
                self._leave_out(found)
            elif isinstance(found, RmrkdError):
                raise found
            elif too_large := self.segmenter.too_large(found.image):
                self._leave_out(CorruptError(f"`{item.path}`: {too_large}"))
            else:
                classes = self.segmenter.of(found.views)
                self.results.entries.append(self._write_image(item, found.image, classes))
            if meter is not None:
                meter.update(done)
        if meter is not None:
            meter.close()

    def videos(self, inputs: list[Input], stopped: Callable[[], int]) -> None:
        for item in inputs:
            if stopped():
                break
            try:
                entry = self._video(item, stopped)
            except CorruptError as error:
                self._leave_out(error)
            else:
                if entry is not None:
                    self.results.entries.append(entry)

    def finish(self) -> None:
        """What sums up all inputs; also of those done before a signal."""
        out, card, results = self.job.out, self.card, self.results
        write_picture(legend_of(card.classes, card.palette), out / "legend.png")
        held = {
            "checkpoint": str(self.job.checkpoint),
            "dataset": card.dataset,
            "scale": list(card.scale) if card.scale is not None else None,
            "scales": list(self.job.scales),
            "flip": self.job.flip,
            "classes": list(card.classes),
            "palette": [list(colour) for colour in card.palette],
            "inputs": results.entries,
            "unread": results.unread,
        }
        write_text(_json(held), out / "predictions.json")
        write_text(_csv(card.classes, results.entries), out / "predictions.csv")

    def _leave_out(self, error: CorruptError) -> None:
        self.results.unread.append(error.message)
        self.shown.say(f"not whole: {error.message}")

    def _write_image(self, item: Input, image: Picture, classes: ClassMap) -> dict[str, Any]:
        job = self.job
        write_class_map(classes, self.card.palette, job.out / f"{item.name}.png")
        shares = pixel_shares(classes, len(self.card.classes))
        entry: dict[str, Any] = {"input": str(item.path), "index": f"{item.name}.png"}
        if job.overlay != "none":
            entry["overlay"] = f"{item.name}-overlay.{job.overlay}"
            picture = self.overlay.draw(image, classes)
            if job.legend:
                rows = [(self.card.classes[k], self.card.palette[k], float(shares[k])) for k in np.flatnonzero(shares)]
                picture = with_legend(picture, rows)
            write_picture(picture, job.out / entry["overlay"])
        return {**entry, **self._facts(classes.shape, shares)}

    def _video(self, item: Input, stopped: Callable[[], int]) -> dict[str, Any] | None:
        """None where a signal came before its last frame: half a video has no name."""
        reader = VideoReader(item.path)
        overlay = f"{item.name}-overlay{SUFFIX}"
        try:
            with new_video(self.job.out / overlay, reader.clip.rate) as writer:
                total, count, shape = self._frames(item, reader, writer.add, stopped)
                if stopped():
                    raise _Stopped
        except _Stopped:
            return None
        finally:
            reader.close()
        if shape[0] % 2 or shape[1] % 2:
            self.shown.say(f"{overlay}: without the last row or column, since codecs take even sizes")
        if count < _WHOLE * reader.clip.frames - 1:  # which can be an estimate
            told = f"`{item.path}`: only {count} of its {reader.clip.frames} frames could be decoded, those are written"
            self._leave_out(CorruptError(told))
        entry = {"input": str(item.path), "overlay": overlay, "frames": count, "frames_per_second": reader.clip.rate}
        return {**entry, **self._facts(shape, total / count)}

    def _frames(
        self, item: Input, reader: VideoReader, add: Callable[[Picture], None], stopped: Callable[[], int]
    ) -> tuple[NDArray[np.float64], int, tuple[int, ...]]:
        """Sum of the shares of each class, number of frames, (height, width)."""
        total, count, shape = np.zeros(len(self.card.classes)), 0, (0, 0)
        meter = self.shown.meter(item.path.name, reader.clip.frames or 1)
        for count, frame in enumerate(reader, 1):
            if too_large := self.segmenter.too_large(frame):
                raise CorruptError(f"`{item.path}`: {too_large}")
            classes = self.segmenter.of(self.segmenter.views(frame))
            add(self.overlay.blend(frame, classes))
            if self.job.frames:
                place = self.job.out / f"{item.name}-frames" / f"{count - 1:06d}.png"
                write_class_map(classes, self.card.palette, place)
            total += pixel_shares(classes, len(self.card.classes))
            shape = classes.shape
            if meter is not None:
                meter.update(count)
            if stopped():
                break
        if meter is not None:
            meter.close()
        return total, count, shape

    def _facts(self, shape: tuple[int, ...], shares: NDArray[np.float64]) -> dict[str, Any]:
        named = {self.card.classes[number]: round(float(shares[number]), 6) for number in np.flatnonzero(shares)}
        return {"width": shape[1], "height": shape[0], "shares": named}


class _Stopped(Exception):
    """A signal came in the middle of a video."""


def mean_shares(results: Results) -> list[tuple[str, float]]:
    """Names of the classes that occur, each with its mean share over the inputs, the largest first."""
    total: Counter[str] = Counter()
    for entry in results.entries:
        total.update(entry["shares"])
    return [(name, share / len(results.entries)) for name, share in total.most_common()]


def list_unread(results: Results) -> str:
    """The inputs that could not be read, a line each, bounded."""
    lines = [f"  {message}" for message in results.unread[:_SHOWN]]
    more = len(results.unread) - _SHOWN
    return "\n".join(lines + ([f"  … and {more} more, in predictions.json"] if more > 0 else []))


def _json(held: dict[str, Any]) -> str:
    """Indented, with a line an input."""
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in held["inputs"])
    parts = {key: json.dumps(value) for key, value in held.items()} | {"inputs": f"[\n{lines}\n ]" if lines else "[]"}
    return "{\n" + ",\n".join(f' "{key}": {text}' for key, text in parts.items()) + "\n}\n"


def _csv(classes: Sequence[str], entries: list[dict[str, Any]]) -> str:
    """A line an input: the share of each class, in the order of the classes."""
    rows = [
        [
            entry["input"], str(entry["width"]), str(entry["height"]),
            *(str(entry["shares"].get(name, 0.0)) for name in classes),
        ]
        for entry in entries
    ]  # fmt: skip
    return to_csv((["input", "width", "height", *classes], rows))
