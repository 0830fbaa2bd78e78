"""Chosen images of a data set with the predictions of several networks, for a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.sample_reader import Pair, SampleFiles
from rmrkd_cli.data.samples import Sample, fingerprint
from rmrkd_cli.data.transforms import EvalSet
from rmrkd_cli.distributed.job import EvalJob
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.checkpoint_network import (
    CheckpointNetwork,
    check_num_classes,
    load_checkpoint_network,
    resolve_dataset,
    select_samples,
)
from rmrkd_cli.evaluation.inference_modes import Window, segment_image
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.report.image_selection import Choice, Image, Picture, ReportImages

_WIDEST = 1280  # pixels that are kept: a report shows no more


@dataclass(frozen=True)
class Source:
    """A group's network.

    Attributes:
        checkpoint: Its file; none where only a result is known.
        told: Which of the group's files it is.
    """

    label: str
    checkpoint: Path | None
    told: str


@dataclass(frozen=True)
class _Place:
    """The data set, and of the chosen images those that can be read."""

    info: DatasetInfo
    samples: list[Sample]
    choices: list[Choice]
    pairs: list[Pair]
    unread: list[str]


def predict_images(
    sources: Sequence[Source],
    choices: Sequence[Choice],
    protocol: Mapping[str, Any],
    *,
    given: Preset | None = None,
    dataset: str | None = None,
    data_root: str | None = None,
    device: str = "cpu",
    allow_partial: bool = False,
) -> ReportImages:
    """Loads the chosen images and predicts each with every network, as the protocol says; nothing here fails a report.

    Args:
        choices: Indices into the samples of the protocol's split.
        given, dataset, data_root, device, allow_partial: As for an evaluation.
    """
    missing: list[str] = []
    place: _Place | None = None
    predictions: dict[str, list[Image]] = {}
    for source in sources:
        if source.checkpoint is None:
            missing.append(f"no predictions of {source.label}: only its result file is there, no checkpoint beside it")
            continue
        job = EvalJob(
            preset=None, checkpoint=str(source.checkpoint), dataset=dataset, data_root=data_root, device=device,
            output="", split=protocol["split"], scales=tuple(protocol["scales"]), flip=protocol["flip"],
            max_images=protocol["images"], allow_partial=allow_partial,
        )  # fmt: skip
        try:
            loaded = load_checkpoint_network(job.checkpoint, given, device, allow_partial=allow_partial)
            if place is None:
                place = _read(*_found(job, loaded, protocol), choices)
                missing += place.unread
            check_num_classes(loaded.network, place.info, job.checkpoint)
            predictions[source.label] = _predicted(loaded.network, place, job, _window(protocol))
        except (RmrkdError, OSError) as error:
            missing.append(f"no predictions of {source.label}: {error}")
    if place is None:
        return ReportImages(missing=tuple(missing))
    told = {source.label: source.told for source in sources if source.label in predictions}
    return ReportImages(_shown(place, predictions), place.info.palette, told, tuple(missing))


def _found(job: EvalJob, loaded: CheckpointNetwork, protocol: Mapping[str, Any]) -> tuple[DatasetInfo, list[Sample]]:
    """The images that were measured.

    Raises:
        RmrkdError: When they are not there, or others are.
    """
    info = resolve_dataset(job, loaded)
    samples = select_samples(info, job)
    if (info.name, fingerprint(samples)) != (protocol["dataset"], protocol["fingerprint"]):
        raise RmrkdError(
            f"the images in `{info.root}` are not those that were measured "
            f"({fingerprint(samples)}, not {protocol['fingerprint']})"
        )
    if list(info.eval_scale) != list(protocol["scale"]):
        raise RmrkdError(
            "its preset measures at {}x{}, the results at {}x{}".format(*info.eval_scale, *protocol["scale"])
        )
    return info, samples


def _read(info: DatasetInfo, samples: list[Sample], choices: Sequence[Choice]) -> _Place:
    """The chosen images that can be read, with their labels."""
    files = SampleFiles(info, samples)
    place = _Place(info, samples, [], [], [])
    for choice in choices:
        try:
            pair = files.pair(choice.index)
        except RmrkdError as error:
            place.unread.append(f"no picture of {samples[choice.index].name}: {error}")
            continue
        place.choices.append(choice)
        place.pairs.append(Pair(_reduced(pair.image), _reduced(pair.labels)))
    return place


def _window(protocol: Mapping[str, Any]) -> Window | None:
    if not protocol.get("window"):
        return None
    return Window(tuple(protocol["window"]), tuple(protocol["stride"]))


@torch.inference_mode()
def _predicted(network: torch.nn.Module, place: _Place, job: EvalJob, window: Window | None) -> list[Image]:
    device = torch.device(job.device)
    ready = inference_network(network.to(device), device.type)
    dataset = EvalSet(place.info, place.samples, scales=job.scales, flip=job.flip, labelled=False)
    guesses = (segment_image(ready, dataset[choice.index].views, device, window) for choice in place.choices)
    return [_reduced(guess.to("cpu", torch.uint8).numpy()) for guess in guesses]


def _shown(place: _Place, predictions: Mapping[str, Sequence[Image]]) -> tuple[Picture, ...]:
    return tuple(
        Picture(
            place.samples[choice.index].name,
            choice,
            np.ascontiguousarray(pair.image[..., ::-1]),
            pair.labels,
            {label: maps[number] for label, maps in predictions.items()},
        )
        for number, (choice, pair) in enumerate(zip(place.choices, place.pairs, strict=True))
    )


def _reduced(picture: Image) -> Image:
    """At most `_WIDEST` pixels wide: a photograph averaged, classes taken as they are."""
    import cv2

    height, width = picture.shape[:2]
    if width <= _WIDEST:
        return np.ascontiguousarray(picture)
    size = (_WIDEST, max(1, round(height * _WIDEST / width)))
    way = cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), size, interpolation=way), np.uint8)
