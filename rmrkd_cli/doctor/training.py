"""Presets, and a few real training steps on random data."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Iterator
from typing import Any

from rmrkd_cli.doctor.check import Check, first_line
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.installation.requirements import install_command, reinstall_command

SECONDS = 2.0
_WARM_UP = 2  # steps
_PRESET = "demo"
_CLASSES = 8


def preset_checks() -> Iterator[Check]:
    from rmrkd_cli.presets.loader import load_preset, preset_names
    from rmrkd_cli.presets.methods import load_method, method_names
    from rmrkd_cli.presets.schema import OWN_METHOD

    presets, methods = preset_names(), [name for name in method_names() if name != OWN_METHOD]
    again = reinstall_command()
    bad = []
    for names, load in ((presets, load_preset), (methods, load_method)):
        for name in names:
            try:
                load(name)
            except (RmrkdError, OSError) as error:
                bad.append(Check(f"preset {name}", "wrong", first_line(error), "a preset that can be read", again))
    if not presets:
        bad.append(Check("presets", "wrong", "none found", "presets inside the package", again))
    yield from bad or [Check("presets", "ok", f"{len(presets)} presets and {len(methods)} methods, all readable")]


def step_checks() -> Iterator[Check]:
    """The demo's distillation on the CPU, and on one GPU of each kind."""
    torch: Any = importlib.import_module("torch")
    places = {"CPU": "cpu"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            places.setdefault(torch.cuda.get_device_name(index), f"cuda:{index}")
    for name, device in places.items():
        yield _rehearsed(f"training on {name}", device)


def _rehearsed(name: str, device: str) -> Check:
    again = install_command("torch", "torchvision", options="--force-reinstall")
    try:
        rate, losses = _train(device)
    except Exception as error:
        return Check(name, "wrong", first_line(error), "steps without an error", again)
    values = ", ".join(f"{loss} {value:.3g}" for loss, value in losses.items())
    bad = [loss for loss, value in losses.items() if not math.isfinite(value)]
    if bad:
        return Check(name, "wrong", f"not finite on random images: {', '.join(bad)}", "finite losses", again)
    return Check(name, "ok", f"{rate:.1f} steps/s of preset `{_PRESET}`; losses {values}")


def _train(device: str) -> tuple[float, dict[str, float]]:
    """Steps a second, after a few or, where one is so slow, from the first; and each loss of the last step, or of the
    first in which one was not finite."""
    import torch

    from rmrkd_cli.data.loader import Batch
    from rmrkd_cli.distillation.factory import build_distiller
    from rmrkd_cli.networks.inference import inference_network
    from rmrkd_cli.presets.loader import load_preset
    from rmrkd_cli.training.optimizer_step import TrainStep

    preset = load_preset(_PRESET)
    schedule = preset.schedule_for("distill")
    place = torch.device(device)
    with torch.cuda.device(place.index) if place.index is not None else torch.device("cpu"):
        built = build_distiller(preset, "distill", _CLASSES, device=place.type, say=lambda _: None, with_weights=False)
        model = built.distiller.place(place, inference_network).train()
        step = TrainStep(model, model, schedule, place)
        generator = torch.Generator().manual_seed(preset.seed)
        size = (schedule.batch_size, 3, *schedule.crop)
        images = torch.randn(size, generator=generator)
        labels = torch.randint(0, _CLASSES, (size[0], 1, *size[2:]), generator=generator)
        number, warm, began = 0, 0, time.perf_counter()
        while True:
            losses = {name: float(value) for name, value in step([Batch(images, labels, [])], number).items()}
            number += 1
            seconds = time.perf_counter() - began
            if seconds >= SECONDS or not all(map(math.isfinite, losses.values())):
                return (number - warm) / seconds, losses
            if number == _WARM_UP:
                warm, began = number, time.perf_counter()
