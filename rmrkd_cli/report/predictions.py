"""The images of a report with the predictions of each network."""

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
from rmrkd_cli.report.figures.class_maps import shrink
from rmrkd_cli.report.image_selection import Choice, Image, ReportImage, ReportImages

_WIDEST = 1280  # pixels of the images in memory; the page and the sheets shrink them further


@dataclass(frozen=True)
class Source:
    """The network of a group.

    Attributes:
        checkpoint: Its file; None where only a result file is known.
        description: Which of the group's files it is.
        preset: Describes the network, in place of the evaluation's preset.
    """

    label: str
    checkpoint: Path | None
    description: str
    preset: Preset | None = None


@dataclass(frozen=True)
class _ChosenSamples:
    """The chosen images that can be read.

    Attributes:
        samples: All samples of the split.
        choices, pairs: For each readable image its choice, and photograph and labels.
        problems: A sentence for each unreadable image.
    """

    info: DatasetInfo
    samples: Sequence[Sample]
    choices: list[Choice]
    pairs: list[Pair]
    problems: list[str]


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
    file_input: dict[str, Any] | None = None,
) -> ReportImages:
    """Load the chosen images, and predict each with every network as the protocol says.

    Whatever cannot be loaded or predicted becomes a sentence in `ReportImages.missing`.

    Args:
        choices: Indices into the samples of the protocol's split.
        given, dataset, data_root, device, allow_partial, file_input: The options of an evaluation.
    """
    missing: list[str] = []
    chosen: _ChosenSamples | None = None
    predictions: dict[str, list[Image]] = {}
    for source in sources:
        if source.checkpoint is None:
            missing.append(f"no predictions of {source.label}: its result file has no checkpoint beside it")
            continue
        job = EvalJob(
            preset=None, checkpoint=str(source.checkpoint), dataset=dataset, data_root=data_root, device=device,
            output="", split=protocol["split"], scales=tuple(protocol["scales"]), flip=protocol["flip"],
            max_images=protocol["images"], allow_partial=allow_partial,
        )  # fmt: skip
        try:
            loaded = load_checkpoint_network(
                job.checkpoint,
                source.preset or given,
                device,
                allow_partial=allow_partial,
                file_input=file_input,
                dataset=dataset,
            )
            if chosen is None:
                chosen = _read_chosen(*_find_samples(job, loaded, protocol), choices)
                missing += chosen.problems
            check_num_classes(loaded.network, chosen.info, job.checkpoint)
            predictions[source.label] = _predict(loaded.network, chosen, job, _window(protocol))
        except (RmrkdError, OSError) as error:
            missing.append(f"no predictions of {source.label}: {error}")
    if chosen is None:
        return ReportImages(missing=tuple(missing))
    checkpoints = {source.label: source.description for source in sources if source.label in predictions}
    return ReportImages(_images(chosen, predictions), chosen.info.palette, checkpoints, tuple(missing))


def _find_samples(
    job: EvalJob, loaded: CheckpointNetwork, protocol: Mapping[str, Any]
) -> tuple[DatasetInfo, Sequence[Sample]]:
    """Return the data set and its samples.

    Raises:
        RmrkdError: If they are missing, or are not those of the protocol.
    """
    info = resolve_dataset(job, loaded)
    samples = select_samples(info, job)
    if (info.name, fingerprint(samples)) != (protocol["dataset"], protocol["fingerprint"]):
        raise RmrkdError(
            f"the images in `{info.root}` are not the evaluated ones "
            f"({fingerprint(samples)}, not {protocol['fingerprint']})"
        )
    if list(info.eval_scale) != list(protocol["scale"]):
        raise RmrkdError(
            "its preset evaluates at {}x{}, the results are at {}x{}".format(*info.eval_scale, *protocol["scale"])
        )
    return info, samples


def _read_chosen(info: DatasetInfo, samples: Sequence[Sample], choices: Sequence[Choice]) -> _ChosenSamples:
    files = SampleFiles(info, samples)
    chosen = _ChosenSamples(info, samples, [], [], [])
    for choice in choices:
        try:
            pair = files.pair(choice.index)
        except RmrkdError as error:
            chosen.problems.append(f"no image of {samples[choice.index].name}: {error}")
            continue
        chosen.choices.append(choice)
        chosen.pairs.append(Pair(shrink(pair.image, _WIDEST), shrink(pair.labels, _WIDEST)))
    return chosen


def _window(protocol: Mapping[str, Any]) -> Window | None:
    if not protocol.get("window"):
        return None
    return Window(tuple(protocol["window"]), tuple(protocol["stride"]))


@torch.inference_mode()
def _predict(network: torch.nn.Module, chosen: _ChosenSamples, job: EvalJob, window: Window | None) -> list[Image]:
    device = torch.device(job.device)
    ready = inference_network(network.to(device), device.type)
    dataset = EvalSet(chosen.info, chosen.samples, scales=job.scales, flip=job.flip, labelled=False)
    maps = (segment_image(ready, dataset[choice.index].views, device, window) for choice in chosen.choices)
    return [shrink(classes.to("cpu", torch.uint8).numpy(), _WIDEST) for classes in maps]


def _images(chosen: _ChosenSamples, predictions: Mapping[str, Sequence[Image]]) -> tuple[ReportImage, ...]:
    return tuple(
        ReportImage(
            chosen.samples[choice.index].name,
            choice,
            np.ascontiguousarray(pair.image[..., ::-1]),  # BGR to RGB
            pair.labels,
            {label: maps[number] for label, maps in predictions.items()},
        )
        for number, (choice, pair) in enumerate(zip(chosen.choices, chosen.pairs, strict=True))
    )
