"""What torch's loader pins for GPUs: it copies tensors, tuples and mappings, and any object that knows how itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from rmrkd_cli.data.loader import Batch
from rmrkd_cli.data.transforms import EvalItem
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.prediction.inputs import ImageItem


@pytest.fixture(autouse=True)
def _pinning_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self + 0.5)  # a mark, in a copy


def tensors(item: Any) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, (list, tuple)):
        for part in item:
            yield from tensors(part)
    elif isinstance(item, (EvalItem, ImageItem)):
        yield from tensors(list(vars(item).values()))


VIEWS = [(torch.zeros(1, 3, 4, 4), {"flip": flip}) for flip in (False, True)]
ITEMS = {
    "evaluation": (EvalItem(VIEWS, torch.zeros(4, 4), 7), 3),
    "evaluation without labels": (EvalItem(VIEWS, None, 7), 2),
    "prediction": (ImageItem(np.zeros((4, 4, 3), np.uint8), VIEWS, 7), 2),
    "training": (Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), [1, 2], ("x",)), 2),
}


@pytest.mark.parametrize("name", ITEMS)
def test_every_tensor_of_an_item_is_pinned(name: str) -> None:
    item, count = ITEMS[name]
    pinned = pin_memory(item)
    assert type(pinned) is type(item)
    marks = [tensor.unique().tolist() for tensor in tensors(pinned)]
    assert marks == [[0.5]] * count
    assert [tensor.unique().tolist() for tensor in tensors(item)] == [[0.0]] * count
    if not isinstance(item, Batch):
        assert pinned.index == 7
        assert [metadata["flip"] for _, metadata in pinned.views] == [False, True]


def test_an_error_in_place_of_an_item_passes() -> None:
    error = RmrkdError("x", "y")
    assert pin_memory(error) is error
