"""Check the presets, and run a few training steps on random data."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Iterator
from typing import Any

from rmrkd_cli.doctor.check import Check, describe_error
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.installation.requirements import install_command, reinstall_command

SECONDS = 2.0
_WARM_UP_STEPS = 2
_PRESET = "demo"
_CLASSES = 8


def preset_checks() -> Iterator[Check]:
    from rmrkd_cli.presets.loader import load_preset, preset_names
    from rmrkd_cli.presets.methods import load_method, method_names
    from rmrkd_cli.presets.schema import OWN_METHOD

    presets, methods = preset_names(), [name for name in method_names() if name != OWN_METHOD]
    fix = reinstall_command()
    failed = []
    for names, load in ((presets, load_preset), (methods, load_method)):
        for name in names:
            try:
                load(name)
            except (RmrkdError, OSError) as error:
                failed.append(Check(f"preset {name}", "error", describe_error(error), "a readable preset", fix))
    if not presets:
        failed.append(Check("presets", "error", "none found", "presets inside the package", fix))
    yield from failed or [Check("presets", "ok", f"{len(presets)} presets and {len(methods)} methods, all readable")]


def step_checks() -> Iterator[Check]:
    """Train the preset `demo` on the CPU, and on one GPU of each kind."""
    torch: Any = importlib.import_module("torch")
    devices = {"CPU": "cpu"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            devices.setdefault(torch.cuda.get_device_name(index), f"cuda:{index}")
    for name, device in devices.items():
        yield _check_training(f"training on {name}", device)


def _check_training(name: str, device: str) -> Check:
    fix = install_command("torch", "torchvision", options="--force-reinstall")
    try:
        rate, losses = _train(device)
    except Exception as error:
        return Check(name, "error", describe_error(error), "steps without an error", fix)
    values = ", ".join(f"{loss} {value:.3g}" for loss, value in losses.items())
    nonfinite = [loss for loss, value in losses.items() if not math.isfinite(value)]
    if nonfinite:
        return Check(name, "error", f"not finite on random images: {', '.join(nonfinite)}", "finite losses", fix)
    return Check(name, "ok", f"{rate:.1f} steps/s of preset `{_PRESET}`; losses {values}")


def _train(device: str) -> tuple[float, dict[str, float]]:
    """Train for `SECONDS`, or until a loss is not finite; return the steps per second and the last step's losses."""
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
        built = build_distiller(preset, "distill", _CLASSES, device=place.type, log=lambda _: None, with_weights=False)
        model = built.distiller.to_device(place, inference_network).train()
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
            if number == _WARM_UP_STEPS:
                warm, began = number, time.perf_counter()
