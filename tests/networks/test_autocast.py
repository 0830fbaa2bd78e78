from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.networks.autocast import cast_for_autocast
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.presets.loader import load_preset


class Count(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func._schema.name] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_equal_those_of_autocast_bit_for_bit(tiny: object, dtype: torch.dtype) -> None:
    preset = load_preset(str(tiny))
    built = build_distiller(preset, "distill", 11, device="cpu", log=lambda _: None, with_weights=False)
    model = built.distiller.to_device("cpu", inference_network)
    model.train()
    images, labels = torch.randn(2, 3, 48, 48), torch.randint(0, 11, (2, 1, 48, 48))
    results, casts = [], []
    for cast in (False, True):
        if cast:
            model.cast_teacher(dtype)
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype), Count() as count:
            results.append(model(images, labels))
        casts.append(count.calls["aten::_to_copy"])
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    assert casts[1] < casts[0] - 20
    assert not any(key.startswith("teacher") for key in model.state_dict())
    assert model.teacher is not None
    assert not model.teacher.training
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_layers_that_compute_with_their_weights_keep_float32() -> None:
    normalised = torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 2, 1))
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), normalised, nn.LayerNorm(2))
    cast_for_autocast(network, torch.bfloat16)
    dtypes = [{parameter.dtype for parameter in layer.parameters()} for layer in network]
    assert dtypes == [{torch.bfloat16}, *[{torch.float32}] * 3]
