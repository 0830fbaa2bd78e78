from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.data.loader import collate
from rmrkd_cli.data.map_file import (
    MapFileError,
    StoredMap,
    all_classes,
    image_signature,
    keep_largest,
    map_bytes,
    read_map,
    same_image,
    write_map,
)
from rmrkd_cli.data.map_geometry import Axis, sample
from rmrkd_cli.data.resize_crop import Window
from rmrkd_cli.data.sample_reader import Pair
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.data.stored_outputs import OutputFormat, StoredOutputs
from rmrkd_cli.data.transforms import TrainSet
from rmrkd_cli.errors import RmrkdError
from tests.helpers.pairs import OnePair

Size = tuple[int, int]
STRIDE = 8
SAMPLE = Sample("a/b", Path(), None)


def gradient(size: Size) -> Pair:
    """Return an image whose blue is the column and whose green is the row, with labels of two classes."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.uint8)
    return Pair(np.stack([columns, rows, rows * 0], -1), (columns // 4 % 2).astype(np.uint8))


def form(folder: Path, *, classes: int = 2, align_corners: bool = False, top_k: int | None = None) -> OutputFormat:
    return OutputFormat(str(folder), "id", classes, top_k, align_corners, STRIDE)


def positions_map(fitted: Size, image: Size, align_corners: bool) -> tuple[Tensor, Size]:
    """Return the map (2, h, w) of a teacher whose output is the column and the row of the image, and what it covers."""
    extra = int(align_corners)
    covered = tuple(-(-(side - extra) // 32) * 32 + extra for side in fitted)
    counts = [-(-side // STRIDE) for side in covered]
    places = [
        (np.arange(count) * STRIDE + (0 if align_corners else (STRIDE - 1) / 2) + 0.5) * (own / seen) - 0.5
        for count, own, seen in zip(counts, image, fitted, strict=True)
    ]
    rows, columns = np.meshgrid(*places, indexing="ij")
    return torch.from_numpy(np.stack([columns, rows])).half(), (covered[0], covered[1])


def store(folder: Path, pair: Pair, values: Tensor, fitted: Size, covered: Size, **options: Any) -> OutputFormat:
    written = form(folder, classes=options.pop("classes", len(values)), **options)
    shape = pair.image.shape
    write_map(
        StoredMap(values, (shape[0], shape[1]), fitted, covered, image_signature(pair.image), 0, "id"),
        written.path("a/b"),
    )
    return written


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("size", "scale", "ratios", "crop"),
    [
        ((128, 192), (192, 128), (1.0, 1.0), (64, 64)),
        ((123, 201), (201, 123), (0.5, 2.0), (64, 96)),
        ((200, 150), (240, 240), (0.75, 1.5), (128, 128)),  # images larger and smaller than the crop
        ((100, 100), (75, 75), (0.5, 1.0), (96, 64)),  # always smaller
    ],
)
def test_crops_of_the_stored_map_match_the_image_to_half_a_pixel(
    tmp_path: Path, size: Size, scale: Size, ratios: tuple[float, float], crop: Size, align_corners: bool
) -> None:
    pair = gradient(size)
    factor = min(max(scale) / max(size), min(scale) / min(size))
    fitted = (int(size[0] * factor + 0.5), int(size[1] * factor + 0.5))
    values, covered = positions_map(fitted, size, align_corners)
    written = store(tmp_path, pair, values, fitted, covered, align_corners=align_corners)
    grid = (crop[0] // STRIDE, crop[1] // STRIDE)
    outputs = StoredOutputs(written, [SAMPLE], crop=crop, size=grid)
    dataset = TrainSet(OnePair(pair), scale=scale, crop=crop, ratio_range=ratios, seed=1, outputs=outputs)  # type: ignore[arg-type]
    steps = dataset.transform.transforms
    dataset.transform.transforms = [step for step in steps if type(step).__name__ not in ("PhotoMetricDistortion",)]
    steps[2].mean, steps[2].std = np.zeros(3, np.float32), np.ones(3, np.float32)  # Normalize keeps the grey levels
    worst, mirrored = 0.0, set()
    for position in range(30):
        item = dataset[position, 0]
        assert item.teacher_logits is not None
        assert item.teacher_logits.shape == (2, *grid)
        assert item.teacher_logits.dtype == torch.float16
        inside = F.avg_pool2d((item.labels[None] != 255).float(), STRIDE)[0, 0] == 1  # no cell with padding
        seen = F.avg_pool2d(item.image[None], STRIDE)[0, [2, 1]]  # columns and rows; the images are RGB
        pixel = size[0] / fitted[0] / ratios[0]  # of the crop, in pixels of the file, at most
        difference = (item.teacher_logits.float() - align_shift(seen, item.image, align_corners, grid))[:, inside]
        worst = max(worst, float(difference.abs().max()) / max(pixel, 1.0))
        mirrored.add(bool(seen[0, 0, 0] > seen[0, 0, 1]))
    assert mirrored == {False, True}
    assert worst < 0.5


def align_shift(seen: Tensor, image: Tensor, align_corners: bool, grid: Size) -> Tensor:
    """Return the mean of the image at the positions of the teacher's logits, which span it corner to corner or not."""
    if not align_corners:
        return seen
    return F.interpolate(image[None, [2, 1]], grid, mode="bilinear", align_corners=True)[0]


def test_a_convolution_of_a_crop_equals_the_crop_of_its_stored_map(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3 if not n else 8, 8 if n < 2 else 5, 3, stride=2, padding=1) for n in range(3)]
    teacher = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2]).eval()
    size, crop, flips = (123, 201), (64, 96), [False, True]  # no multiples of the stride
    pair = Pair(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8), np.zeros(size, np.uint8))
    image = torch.from_numpy(pair.image).permute(2, 0, 1)[None].float() / 255
    padded = F.pad(image, (0, 224 - size[1], 0, 128 - size[0]), mode="reflect")
    with torch.no_grad():
        whole = teacher(padded)[0]
        written = store(tmp_path, pair, whole.half(), size, (128, 224))
        outputs = StoredOutputs(written, [SAMPLE], crop=crop, size=(8, 12))
        for top, left in ((0, 0), (16, 40), (56, 96)):
            live = teacher(image[..., top : top + crop[0], left : left + crop[1]])[0]
            stored = outputs.crop(0, pair.image, Window(size, top, left, *crop), flipped=False).float()
            inner = (slice(None), slice(2, -2), slice(2, -2))
            assert torch.allclose(stored[inner], live[inner], rtol=2**-11, atol=2**-24 + 1e-6)
            mirrored = outputs.crop(0, pair.image, Window(size, top, left, *crop), flipped=flips[1]).float()
            assert torch.equal(mirrored, stored.flip(-1))


def test_sampling_is_bilinear_and_stops_at_the_border() -> None:
    maps = torch.tensor([[[0.0, 1.0, 4.0], [10.0, 11.0, 14.0]]]).half()
    got = sample(maps, np.array([-1.0, 0.25, 9.0]), np.array([0.5, 1.5, 2.0, 7.0]))
    assert got.dtype == torch.float32
    assert got[0].tolist() == [[0.5, 2.5, 4.0, 4.0], [3.0, 5.0, 6.5, 6.5], [10.5, 12.5, 14.0, 14.0]]


@pytest.mark.parametrize("align_corners", [False, True])
def test_positions_are_those_of_torch(align_corners: bool) -> None:
    values = torch.rand(1, 1, 7, 9)
    resized = F.interpolate(values, (20, 33), mode="bilinear", align_corners=align_corners)[0]
    places = [Axis(n, pixels, align_corners).to_positions(np.arange(pixels)) for n, pixels in ((7, 20), (9, 33))]
    assert torch.allclose(sample(values[0], *places), resized, atol=1e-6)
    axis = Axis(7, 20, align_corners)
    assert np.allclose(axis.to_positions(axis.to_pixels(np.arange(7.0))), np.arange(7.0))


def test_the_student_gets_no_more_positions_than_the_teacher_has(tmp_path: Path) -> None:
    pair = gradient((64, 64))
    written = store(tmp_path, pair, torch.rand(2, 8, 8).half(), (64, 64), (64, 64))
    window = Window((64, 64), 0, 0, 64, 64)
    for student, expected in (((4, 4), (4, 4)), ((64, 64), (8, 8)), ((4, 16), (4, 8))):
        outputs = StoredOutputs(written, [SAMPLE], crop=(64, 64), size=student)
        assert outputs.crop(0, pair.image, window, flipped=False).shape[1:] == expected


def test_the_largest_classes_and_the_remaining_probability_are_kept(tmp_path: Path) -> None:
    logits = torch.randn(150, 5, 6, generator=torch.Generator().manual_seed(0)) * 4
    exact = logits.log_softmax(0)
    values, classes, rest = keep_largest(exact, 10)
    stored = StoredMap(values, (40, 48), (40, 48), (40, 48), "", 0, "id", classes, rest)
    path = form(tmp_path).path("a")
    write_map(stored, path)
    dense = all_classes(read_map(path), 150).float()
    assert torch.allclose(dense.exp().sum(0), torch.ones(5, 6), atol=2e-3)
    kept = exact.topk(10, dim=0)
    assert torch.allclose(dense.gather(0, kept.indices), kept.values, atol=5e-3)
    others = dense.scatter(0, kept.indices, -torch.inf).exp()
    assert torch.allclose(others.sum(0), 1 - kept.values.exp().sum(0), atol=2e-3)
    assert path.stat().st_size <= map_bytes(150, (5, 6), 10)


def test_a_file_is_read_as_it_was_written_and_damage_is_found(tmp_path: Path) -> None:
    written = form(tmp_path)
    stored = StoredMap(torch.rand(2, 3, 4).half(), (24, 32), (24, 32), (32, 32), "00ff", 17, "id")
    path = written.path("x")
    write_map(stored, path)
    again = written.read("x")
    assert torch.equal(again.values, stored.values)
    assert (again.image, again.fitted, again.covered, again.signature) == ((24, 32), (24, 32), (32, 32), "00ff")
    assert again.image_bytes == 17
    contents = path.read_bytes()
    assert len(contents) <= map_bytes(2, (3, 4), None)
    for place in range(0, len(contents), 7):  # header, facts and values
        path.write_bytes(contents[:place] + bytes([contents[place] ^ 1]) + contents[place + 1 :])
        with pytest.raises(MapFileError, match="damaged"):
            written.read("x")
    for part in (contents[:-1], contents[:20], b"", b"text"):
        path.write_bytes(part)
        with pytest.raises(MapFileError, match="damaged"):
            written.read("x")


def test_missing_foreign_and_damaged_files_are_named_and_not_used(tmp_path: Path) -> None:
    pair = gradient((64, 64))
    written = store(tmp_path, pair, torch.rand(2, 8, 8).half(), (64, 64), (64, 64))
    window = Window((64, 64), 0, 0, 64, 64)

    def refusal(form: OutputFormat = written, image: Any = pair.image, name: str = "a/b") -> str:
        with pytest.raises(RmrkdError) as caught:
            StoredOutputs(form, [Sample(name, Path(), None)], crop=(64, 64), size=(8, 8)).crop(
                0, image, window, flipped=False
            )
        assert str(form.path(name)) in caught.value.message
        assert "rmrkd cache-teacher" in caught.value.hint
        return caught.value.message.split("` ", 1)[1]

    assert refusal(name="c") == "is missing"
    assert "another teacher" in refusal(OutputFormat(str(tmp_path), "other", 2, None, False, STRIDE))
    assert "not that of 3 classes" in refusal(form(tmp_path, classes=3))
    assert "another image" in refusal(image=gradient((64, 72)).image)
    assert "another image" in refusal(image=pair.image[:, ::-1])
    written.path("a/b").write_bytes(written.path("a/b").read_bytes()[:-3])
    assert "is damaged" in refusal()


def test_decoders_that_round_differently_give_the_same_image() -> None:
    image = np.random.default_rng(0).integers(2, 254, (90, 120, 3), dtype=np.uint8)
    noise = np.random.default_rng(1).integers(-2, 3, image.shape)
    assert same_image(image_signature(image), image_signature((image + noise).astype(np.uint8)))
    assert not same_image(image_signature(image), image_signature(image // 2))
    assert not same_image(image_signature(image), "no signature")


def test_a_batch_has_the_logits_of_its_items(tmp_path: Path) -> None:
    pair = gradient((64, 64))
    written = store(tmp_path, pair, torch.rand(2, 8, 8).half(), (64, 64), (64, 64))
    outputs = StoredOutputs(written, [SAMPLE], crop=(32, 32), size=(4, 4))
    options: Any = {"scale": (64, 64), "crop": (32, 32), "ratio_range": (1.0, 1.0), "seed": 0}
    with_outputs, without = (TrainSet(OnePair(pair), **options, outputs=each) for each in (outputs, None))  # type: ignore[arg-type]
    batch = collate([with_outputs[0, 0], with_outputs[1, 0]])
    plain = collate([without[0, 0], without[1, 0]])
    assert not isinstance(batch, RmrkdError)
    assert not isinstance(plain, RmrkdError)
    assert batch.teacher_logits is not None
    assert batch.teacher_logits.shape == (2, 2, 4, 4)
    assert plain.teacher_logits is None
    assert torch.equal(batch.images, plain.images)  # reading the outputs draws no random number
