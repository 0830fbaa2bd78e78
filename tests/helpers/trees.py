"""Write small data sets in the layouts of the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def blobs(rng: np.random.Generator, size: tuple[int, int], classes: int, ignored: int = 255) -> np.ndarray:
    """Return a label map (H, W) of a few rectangles, with a stripe of the ignored label."""
    height, width = size
    label = np.full(size, int(rng.integers(classes)), np.uint8)
    for _ in range(6):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        label[top : top + height // 2, left : left + width // 2] = rng.integers(classes)
    label[: height // 16] = ignored
    return label


def write_pair(image: Path, label: Path, rng: np.random.Generator, size: tuple[int, int], classes: int) -> None:
    """Write a label map, and an image whose colours follow it."""
    labels = blobs(rng, size, classes)
    colours = np.random.default_rng(1).integers(0, 255, (256, 3))
    pixels = np.clip(colours[labels] + rng.normal(0, 12, (*size, 3)), 0, 255).astype(np.uint8)
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(image)
    Image.fromarray(labels).save(label)


def cityscapes(root: Path, *, images: int = 4, size: tuple[int, int] = (128, 256)) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(images):
            stem = f"aachen/aachen_{number:06d}_000019"
            image = root / "leftImg8bit" / split / f"{stem}_leftImg8bit.png"
            write_pair(image, root / "gtFine" / split / f"{stem}_gtFine_labelTrainIds.png", rng, size, 19)
    return root


def voc12aug(root: Path, *, images: int = 4, size: tuple[int, int] = (96, 128)) -> Path:
    rng = np.random.default_rng(0)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, folder in (
        ("train", "SegmentationClass"),
        ("aug", "SegmentationClassAug"),
        ("val", "SegmentationClass"),
    ):
        names = [f"2007_{split}{number:03d}" for number in range(images)]
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            write_pair(root / "JPEGImages" / f"{name}.jpg", root / folder / f"{name}.png", rng, size, 21)
    return root


def camvid(root: Path, *, images: int = 4, size: tuple[int, int] = (64, 96)) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(images):
            write_pair(root / split / f"{number}.png", root / f"{split}annot" / f"{number}.png", rng, size, 11)
            label = np.asarray(Image.open(root / f"{split}annot" / f"{number}.png")).copy()
            label[label == 255] = 11
            Image.fromarray(label).save(root / f"{split}annot" / f"{number}.png")
    return root


def ade20k(root: Path, *, images: int = 4, size: tuple[int, int] = (64, 96)) -> Path:
    """Write images with labels from 1; 0 is ignored."""
    rng = np.random.default_rng(0)
    for split in ("training", "validation"):
        for number in range(images):
            name = f"ADE_{split}_{number:08d}"
            label = root / "annotations" / split / f"{name}.png"
            write_pair(root / "images" / split / f"{name}.jpg", label, rng, size, 150)
            values = np.asarray(Image.open(label))
            Image.fromarray(np.where(values == 255, 0, values + 1).astype(np.uint8)).save(label)
    return root
