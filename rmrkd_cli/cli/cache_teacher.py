"""`rmrkd cache-teacher`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rmrkd_cli.api.devices import choose_devices
from rmrkd_cli.cli.command import option
from rmrkd_cli.cli.completion import complete_preset
from rmrkd_cli.cli.evaluation_options import parse_scales
from rmrkd_cli.cli.options import (
    NETWORK,
    OUTPUT,
    BatchSize,
    DataRoot,
    Device,
    DeviceOption,
    Flip,
    Gpus,
    LoaderWorkers,
    Scales,
    Unlabelled,
)
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.changes import checkpoint_override, combine_settings
from rmrkd_cli.presets.user_code import allow_files
from rmrkd_cli.storage.output_paths import absolute_path, check_recordable

if TYPE_CHECKING:
    from rmrkd_cli.presets.schema import Preset


def cache_teacher_command(
    preset: Annotated[
        list[str],
        option(
            "--preset",
            NETWORK,
            "Take the teacher and the training images of this preset; repeat it to average several teachers.",
            metavar="NAME|FILE",
            autocompletion=complete_preset,
        ),
    ],
    out: Annotated[
        Path,
        option("--out", OUTPUT, "Write the outputs into this folder, or continue to fill it.", metavar="DIR"),
    ],
    teacher_checkpoint: Annotated[
        list[str] | None,
        option(
            "--teacher-checkpoint",
            NETWORK,
            "Load the teacher from this file; repeat it for several presets, in their order.",
            default="the preset's, else the one in work_dirs/<preset>/teacher",
            metavar="FILE",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        option("--set", NETWORK, "Change any key of all presets; repeatable.", metavar="KEY.PATH=VALUE"),
    ] = None,
    code: Annotated[
        list[str] | None,
        option("--code", NETWORK, "Let the preset run the networks of this Python file; repeatable.", metavar="FILE"),
    ] = None,
    data_root: DataRoot = None,
    unlabelled: Unlabelled = None,
    flip: Flip = False,
    scales: Scales = "1.0",
    top_k: Annotated[
        int | None,
        option(
            "--top-k",
            OUTPUT,
            "Keep the N largest classes of each position, and the probability of the others together.",
            default="all classes",
            min=1,
            max=255,
        ),
    ] = None,
    device: DeviceOption = Device.auto,
    gpus: Gpus = None,
    batch_size: BatchSize = None,
    workers: LoaderWorkers = None,
) -> None:
    """Write a teacher's outputs for all training images, so that students train without running it.

    A stopped command continues where it was. Several commands may fill one folder at the same time.

    Examples:
        rmrkd cache-teacher --preset psp101-psp18-city --out outputs/psp101-city --gpus 8
        rmrkd cache-teacher --preset mine.yaml --out outputs/mine --flip --scales 0.75,1,1.25
    """
    factors = parse_scales(scales)
    allow_files(code or ())
    check_recordable(out, "--out")
    presets = load_presets(preset, teacher_checkpoint or [], settings or [], data_root, absolute_path(unlabelled))
    kind, cluster = choose_devices(device.value, gpus, workers)
    from rmrkd_cli.terminal import console, messages
    from rmrkd_cli.training.caching.command import cache_teacher

    index = cache_teacher(
        presets, out, kind, cluster, scales=factors, flip=flip, top_k=top_k, batch_size=batch_size, workers=workers,
        code=tuple(code or ()),
    )  # fmt: skip
    if index is None:
        return
    miou = f", mIoU {100 * index.miou:.2f}" if index.miou is not None else ""
    console.print_line(f"`{out}`: {index.images} images, {index.describe()}{miou}")
    messages.log(f"train from them: rmrkd train --preset {preset[0]} --method kd --teacher-outputs {out}")


def load_presets(
    names: list[str], files: list[str], settings: list[str], data_root: str | None, unlabelled: str | None = None
) -> list[Preset]:
    """Return the presets with the changes of the command line.

    Args:
        files: Of the teachers, one for each preset or none at all.

    Raises:
        RmrkdError: A preset is invalid, or there are more or fewer files than presets.
    """
    from rmrkd_cli.presets.loader import load_preset

    if files and len(files) != len(names):
        raise RmrkdError(
            f"--preset names {len(names)} teacher(s), --teacher-checkpoint {len(files)}",
            "give one --teacher-checkpoint for each --preset, in the same order",
        )
    loaded = []
    for number, name in enumerate(names):
        file = files[number] if files else None
        options = [("data.root", json.dumps(data_root), "--data-root")] if data_root is not None else []
        if unlabelled is not None:
            options.append(("data.unlabelled.images", json.dumps(unlabelled), "--unlabelled"))
        if file is not None:
            options.append(checkpoint_override("teacher", name, file))
        loaded.append(load_preset(name, overrides=combine_settings(settings, options)))
    return loaded
