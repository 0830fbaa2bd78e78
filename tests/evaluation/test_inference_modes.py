"""Sliding windows and batches: equal to mmsegmentation, and independent of the batch size."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rmrkd_cli.data.transforms import EvalItem, View
from rmrkd_cli.evaluation.batching import SizeBatcher, default_batch_size, stack_views
from rmrkd_cli.evaluation.inference_modes import (
    Window,
    segment_image,
    segment_images,
    slide_bands,
    slide_inference,
    window_spans,
)
from rmrkd_cli.networks.inference import inference_network
from tests.networks.test_inference import lively

CPU = torch.device("cpu")
SIDES = st.integers(1, 90)


def view(size: tuple[int, int], of: tuple[int, int], *, flip: bool = False, seed: int = 0) -> View:
    generator = torch.Generator().manual_seed(seed)
    meta: dict[str, Any] = {"ori_shape": (*of, 3), "img_shape": (*size, 3), "pad_shape": (*size, 3)}
    meta |= {"flip": flip, "flip_direction": "horizontal"}
    return torch.randn(1, 3, *size, generator=generator), meta


def item(index: int, size: tuple[int, int], of: tuple[int, int] | None = None) -> EvalItem:
    small = (max(1, size[0] // 2), max(1, size[1] // 2))
    views = [view(shape, of or size, seed=index) for shape in (size, small)]
    return EvalItem(views, torch.zeros(of or size, dtype=torch.uint8), index)


@pytest.fixture(scope="module")
def networks() -> tuple[nn.Module, nn.Module]:
    """Return a network as built, and as prepared for inference."""
    network = lively("demo")
    return network, inference_network(network, "cpu")


@pytest.mark.parametrize(
    ("crop", "stride"), [((32, 48), (21, 32)), ((64, 64), (64, 64)), ((40, 200), (7, 1)), ((500, 500), (1, 1))]
)
def test_sliding_windows_equal_mmseg_bit_for_bit(
    crop: tuple[int, int], stride: tuple[int, int], networks: tuple[nn.Module, nn.Module]
) -> None:
    network: Any = networks[0]
    images = torch.cat([view((72, 101), (72, 101), seed=seed)[0] for seed in range(2)])
    network.test_cfg = SimpleNamespace(mode="slide", crop_size=crop, stride=stride)
    with torch.inference_mode():
        theirs = network.slide_inference(images, None, rescale=False)
        ours = slide_inference(network, images, Window(crop, stride))
    assert torch.equal(ours, theirs)


@given(length=SIDES, crop=SIDES, stride=SIDES)
def test_windows_leave_no_gap_and_stay_inside(length: int, crop: int, stride: int) -> None:
    stride = min(crop, stride)
    found = window_spans(length, crop, stride)
    assert {end - start for start, end in found} == {min(crop, length)}
    assert set().union(*(range(*span) for span in found)) == set(range(length))
    assert all(0 <= start < end <= length for start, end in found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("window", [None, Window((32, 40), (20, 27))], ids=["whole", "slide"])
@pytest.mark.parametrize("flip", [False, True])
def test_classes_equal_those_of_mmseg(window: Window | None, flip: bool, networks: tuple[nn.Module, nn.Module]) -> None:
    """The views differ in size from the image, and one is mirrored."""
    network: Any = networks[0]
    shown = [view((48, 60), (64, 80)), view((64, 80), (64, 80), flip=flip)][: 1 + flip]
    slid = {"mode": "slide", "crop_size": window.crop, "stride": window.stride} if window else {"mode": "whole"}
    network.test_cfg = SimpleNamespace(**slid)
    with torch.inference_mode():
        [theirs] = network.forward_test([image for image, _ in shown], [[meta] for _, meta in shown])
    ours = segment_image(network, shown, CPU, window)
    assert ours.shape == (64, 80)
    assert (ours.numpy() == theirs).all()
    assert len(ours.unique()) > 1


def test_bands_are_no_higher_than_a_window_and_their_classes_are_those_of_the_whole(
    networks: tuple[nn.Module, nn.Module],
) -> None:
    """So the logits of 8064x6048 pixels need not be in memory at once."""
    _, network = networks
    window = Window((32, 40), (20, 23))
    images = torch.randn(1, 3, 130, 90)
    bands = list(slide_bands(network, images, window))
    assert [band.shape[2] for band in bands] == [20, 20, 20, 20, 18, 32]
    whole = slide_inference(network, images, window)
    assert torch.equal(torch.cat(bands, dim=2), whole)
    meta = {"ori_shape": (130, 90, 3), "flip": False}
    assert torch.equal(segment_image(network, [(images, meta)], CPU, window), whole.argmax(1)[0])


def test_a_head_of_one_channel_has_two_classes(networks: tuple[nn.Module, nn.Module]) -> None:
    class Head(nn.Module):
        threshold, out_channels, num_classes = 0.3, 1, 2

        def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
            return features[0][:, :1] * 4

    class Binary(nn.Module):
        align_corners = False
        decode_head = Head()

        def extract_feat(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [images]

    network = Binary()
    image, meta = view((8, 8), (8, 8))
    shown = segment_image(network, [(image, meta)], CPU)
    assert torch.equal(shown, (image[0, 0].mul(4).sigmoid() > 0.3).long())
    assert torch.equal(segment_image(network, [(image, meta)] * 2, CPU), shown)


@pytest.mark.parametrize("window", [None, Window((32, 40), (20, 27))], ids=["whole", "slide"])
def test_a_batch_gives_the_classes_of_one_by_one(window: Window | None, networks: tuple[nn.Module, nn.Module]) -> None:
    """Kernels round differently for other batch sizes, so nearly equal classes may swap."""
    items = [item(index, (64, 80)) for index in range(5)]
    together = segment_images(networks[1], stack_views(items), CPU, window)
    alone = torch.stack([segment_image(networks[1], one.views, CPU, window) for one in items])
    assert together.shape == (5, 64, 80)
    assert (together != alone).sum() <= 1e-4 * alone.numel()


@given(
    sizes=st.lists(st.sampled_from([(4, 6), (6, 4), (8, 8), (4, 8), (2, 2), (6, 6)]), max_size=60),
    batch_size=st.integers(1, 5),
)
def test_every_image_is_in_one_batch_of_its_size(sizes: list[tuple[int, int]], batch_size: int) -> None:
    def batches() -> list[list[int]]:
        batcher, given_back = SizeBatcher(batch_size), 0
        found = []
        for index, size in enumerate(sizes):
            for batch in batcher.add(item(index, size), last=index == len(sizes) - 1):
                assert len({sizes[member.index] for member in batch}) == 1
                assert 1 <= len(batch) <= batch_size
                found.append([member.index for member in batch])
                given_back += len(batch)
            assert index + 1 - given_back < 4 * batch_size
        return found

    assert Counter(index for batch in batches() for index in batch) == Counter(range(len(sizes)))
    assert batches() == batches()


def test_the_last_call_returns_all_waiting_images() -> None:
    batcher = SizeBatcher(3)
    assert batcher.add(item(0, (4, 6)), last=False) == []
    assert batcher.add(item(1, (4, 6), of=(8, 12)), last=False) == []  # views of equal size, another original size
    assert [[member.index for member in batch] for batch in batcher.add(None, last=True)] == [[0], [1]]
    assert batcher.add(None, last=True) == []


def test_batches_on_a_gpu_take_no_more_memory_than_one_large_image() -> None:
    assert default_batch_size("cpu", (480, 360)) == 1
    sizes = {(480, 360): 4, (2048, 512): 2, (2048, 1024): 1, (4096, 4096): 1}
    assert {size: default_batch_size("cuda", size) for size in sizes} == sizes
    assert default_batch_size("cuda", (480, 360), (0.5, 2.0)) == 3
