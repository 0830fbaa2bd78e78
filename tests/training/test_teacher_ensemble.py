from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rmrkd_cli.data.map_file import StoredMap, image_signature, write_map
from rmrkd_cli.data.map_geometry import Axis
from rmrkd_cli.data.resize_crop import ResizedCrop, Window
from rmrkd_cli.data.sample_reader import Pair
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.data.stored_outputs import OutputFormat, StoredOutputs
from rmrkd_cli.data.transforms import EvalViews, TrainSet
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.adapter import Adapter, set_adapter
from rmrkd_cli.networks.file_network import FileNetwork
from rmrkd_cli.networks.onnx_runner import OnnxRunner
from rmrkd_cli.training.caching.ensemble import TeacherEnsemble, input_size, pad_mirrored, upsample
from tests.helpers.network_files import write_onnx
from tests.helpers.pairs import OnePair

CPU = torch.device("cpu")


class FromLogits(Adapter):
    """Of a network that maps images to logits."""

    def __init__(self, num_classes: int, align_corners: bool = False) -> None:
        self.num_classes, self.align_corners = num_classes, align_corners

    def maps(self, network: nn.Module, images: Tensor, *, auxiliary: bool = False) -> dict:
        return {"logits": network(images)}

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = network(images)
        return logits


class Position(nn.Module):
    """Logits (column, row) in pixels of the input, whatever the image shows: stride 8."""

    def __init__(self, corners: bool) -> None:
        super().__init__()
        self.first = 0.0 if corners else 3.5

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = (torch.arange(-(-side // 8)) * 8 + self.first for side in images.shape[2:])
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))
        return grid.expand(len(images), *grid.shape).float()


def convolution(classes: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, classes, 3, 2, 1)]
    return set_adapter(nn.Sequential(*layers).eval(), FromLogits(classes))


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (61, 90), (65, 97), (20, 40)])
def test_every_pixel_gets_the_output_at_its_position(size: tuple[int, int], corners: bool) -> None:
    ensemble = TeacherEnsemble([set_adapter(Position(corners), FromLogits(2, corners))], 2, CPU)
    outputs = ensemble([torch.zeros(1, 3, *size)])
    assert ensemble.stride == 8
    assert outputs.fitted == size
    assert outputs.values.shape[2:] == ensemble.map_size(size)
    columns, rows = upsample(outputs, size, corners)[0]
    inside = slice(None) if corners else slice(4, -4)  # half a position from the border
    assert torch.allclose(columns[:, inside], torch.arange(size[1])[inside].float().expand(size[0], -1), atol=1e-3)
    assert torch.allclose(rows[inside], torch.arange(size[0])[inside].float()[:, None].expand(-1, size[1]), atol=1e-3)


def test_a_single_view_gives_the_networks_own_logits() -> None:
    network = convolution(4, 0)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    outputs = TeacherEnsemble([network], 4, CPU)([images])
    assert torch.equal(outputs.values, network(images))
    assert outputs.covered == (64, 96)


def test_networks_and_mirrored_images_are_averaged_as_probabilities() -> None:
    networks = [convolution(4, seed) for seed in (0, 1)]
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    outputs = TeacherEnsemble(networks, 4, CPU, flip=True)([images])
    views = [network(images.flip(3) if mirrored else images).softmax(1) for network in networks for mirrored in (0, 1)]
    expected = sum(view.flip(3) if number % 2 else view for number, view in enumerate(views)) / 4
    assert torch.allclose(outputs.values.exp(), expected, atol=1e-6)
    assert torch.allclose(outputs.values.exp().sum(1), torch.ones(1, 8, 12), atol=1e-6)


def test_scales_are_averaged_at_equal_positions() -> None:
    """A network whose probabilities are linear in the position gives the same at every scale, inside the image."""

    class Half(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            share = (Position(False)(images)[:, :1] + 0.5) / images.shape[3]  # 0 to 1 from left to right
            return torch.cat([share, 1 - share], 1).clamp(min=1e-3).log()

    network = set_adapter(Half(), FromLogits(2))
    sizes = {0.5: (64, 96), 1.0: (128, 192), 1.5: (192, 288)}
    ensemble = TeacherEnsemble([network], 2, CPU, scales=tuple(sizes), flip=False)
    assert ensemble.reference == 1
    outputs = ensemble([torch.zeros(1, 3, *size) for size in sizes.values()])
    assert outputs.fitted == (128, 192)
    expected = (Axis(24, 192, False).to_pixels(np.arange(24.0)) + 0.5) / 192
    assert np.allclose(outputs.values.exp()[0, 0, 4, 1:-1], expected[1:-1], atol=1e-4)


def test_teachers_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(RmrkdError, match="the teacher of `b` gives logits of 5 classes, the data set has 4"):
        TeacherEnsemble([convolution(4, 0), convolution(5, 0)], 4, CPU, names=("a", "b"))


def test_padding_continues_the_image_by_its_mirror_image() -> None:
    images = torch.arange(5.0 * 33).view(1, 1, 5, 33)
    padded = pad_mirrored(images, (32, 64))
    assert padded.shape == (1, 1, 32, 64)
    assert torch.equal(padded[..., :5, :33], images)
    assert torch.equal(padded[..., 5:10, :33], images.flip(2))
    assert torch.equal(padded[0, 0, 0, 33:], images[0, 0, 0].flip(0)[:31])
    assert pad_mirrored(images, (5, 33)) is images


@pytest.mark.parametrize(
    ("align_corners", "resizes", "size"),
    [(False, False, (32, 64)), (True, False, (33, 33)), (False, True, (5, 33)), (True, True, (5, 33))],
)
def test_networks_that_resize_images_get_no_padding(align_corners: bool, resizes: bool, size: tuple[int, int]) -> None:
    adapter = FromLogits(4, align_corners)
    adapter.resizes = resizes
    assert input_size(adapter, (5, 33)) == size


def test_stored_and_live_logits_of_crops_at_multiples_of_the_stride_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A convolutional teacher at a scale of 1, through the whole loader; three positions from the border of a crop."""
    size, crop = (123, 201), (64, 96)  # of the image: no multiples of the stride
    network = convolution(5, 0)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    (view, _) = EvalViews((201, 123))(image)[0]
    outputs = TeacherEnsemble([network], 5, CPU)([view])
    form = OutputFormat(str(tmp_path), "id", 5, None, False, 8)
    signature = image_signature(image)
    write_map(
        StoredMap(outputs.values[0].half(), size, outputs.fitted, outputs.covered, signature, 0, "id"), form.path("a")
    )
    draw = ResizedCrop._draw_window

    def draw_aligned(self: ResizedCrop, scaled: tuple[int, int]) -> Window:
        window = draw(self, scaled)
        return window._replace(top=window.top // 8 * 8, left=window.left // 8 * 8)

    monkeypatch.setattr(ResizedCrop, "_draw_window", draw_aligned)
    stored = StoredOutputs(form, [Sample("a", Path(), None)], crop=crop, size=(8, 12))
    source = OnePair(Pair(image, np.zeros(size, np.uint8)))
    dataset = TrainSet(source, scale=(201, 123), crop=crop, ratio_range=(1.0, 1.0), seed=0, outputs=stored)  # type: ignore[arg-type]
    steps = dataset.transform.transforms
    steps[0].prob = 0.0  # a mirrored image has other outputs than the mirror image of its outputs
    dataset.transform.transforms = [step for step in steps if type(step).__name__ != "PhotoMetricDistortion"]
    inner = (slice(None), slice(3, -3), slice(3, -3))
    at_border = 0
    for position in range(20):
        item = dataset[position, 0]
        live = network(item.image[None])[0].detach()
        assert item.teacher_logits is not None
        assert torch.allclose(item.teacher_logits.float()[inner], live[inner], rtol=2**-11, atol=1e-6)
        at_border += not torch.allclose(item.teacher_logits.float(), live, rtol=2**-11, atol=1e-6)
    assert at_border > 10  # a crop's border hides from the live teacher what the stored outputs have seen


@pytest.mark.parametrize(
    ("size", "expected"), [((81, 121), [(81, 121), (61, 90)]), ((61, 91), [(64, 96)]), (None, [(64, 96)])]
)
def test_a_file_that_resizes_images_gets_them_without_padding(
    size: tuple[int, int] | None, expected: list[tuple[int, int]], tmp_path: Path
) -> None:
    """It is run at the size for which it was made, as in evaluation, and with another scale at that share of it."""
    runner = OnnxRunner(write_onnx(tmp_path / "net.onnx"))
    network = FileNetwork(runner, given={"size": size} if size else {}, image_size=(61, 91)).eval()
    ran: list[tuple[int, ...]] = []
    run = runner.run
    runner.run = lambda images: ran.append(tuple(images.shape[2:])) or run(images)  # type: ignore[method-assign,func-returns-value]
    scales = (1.0, 0.75) if len(expected) > 1 else (1.0,)
    ensemble = TeacherEnsemble([network], 4, CPU, scales=scales)
    ran.clear()
    outputs = ensemble([torch.zeros(1, 3, round(61 * scale), round(91 * scale)) for scale in scales])
    assert ran == expected
    assert outputs.values.shape[2:] == expected[0] == ensemble.map_size((61, 91))
