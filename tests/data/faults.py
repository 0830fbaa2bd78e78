"""Two data sets with ten different faults each, and the findings that a check must report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers import trees

Expected = tuple[str, str, str, str]  # kind, end of the file's path, part of the text, part of the fix


def _relabel(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(change(np.asarray(Image.open(path)).copy())).save(path)


def _set(value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(label: np.ndarray) -> np.ndarray:
        label[20:22, 30:35] = value
        return label

    return change


def _cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def cityscapes(root: Path) -> list[Expected]:
    """Write a data set with ten faults, and return the expected findings."""
    trees.cityscapes(root, images=12)

    def image(n: int, split: str = "train") -> Path:
        return root / f"leftImg8bit/{split}/aachen/aachen_{n:06d}_000019_leftImg8bit.png"

    def label(n: int, split: str = "train") -> Path:
        return root / f"gtFine/{split}/aachen/aachen_{n:06d}_000019_gtFine_labelTrainIds.png"

    label(0).rename(Path(str(label(0)).replace("labelTrainIds", "labelIds")))
    image(1).unlink()
    _cut(image(2), 0.5)
    _cut(label(3), 0.7)
    _flip(image(4))
    _relabel(label(5), lambda x: np.where(x == 255, 3, x + 15).astype(np.uint8))
    _relabel(label(6), _set(77))
    _relabel(label(7), lambda x: x[:-1])
    _relabel(label(8), lambda x: x.astype(np.uint16))
    label(9, "val").write_text("<html><body>Please log in</body></html>")
    prepare = "rmrkd data prepare cityscapes"
    return [
        ("missing-label", image(0).name, "labelTrainIds.png", prepare),
        ("missing-image", label(1).name, image(1).name, "restore the image"),
        ("corrupt-image", image(2).name, "ends after", "fresh copy"),
        ("corrupt-label", label(3).name, "ends after", "fresh copy"),
        ("corrupt-image", image(4).name, "checksum", "fresh copy"),
        ("label-value", label(5).name, "classes are 0..18", prepare),
        ("label-value", label(6).name, "contains 77 (10 pixels)", "as published"),
        ("size-mismatch", label(7).name, "is 256x127", "label map made for this image"),
        ("label-format", label(8).name, "uint16", "8-bit PNG"),
        ("corrupt-label", f"val/aachen/{label(9).name}", "web page", "fresh copy"),
    ]


def voc12aug(root: Path) -> list[Expected]:
    """Write a data set with ten faults, and return the expected findings."""
    trees.voc12aug(root, images=12)
    lists, jpegs, masks = root / "ImageSets/Segmentation", root / "JPEGImages", root / "SegmentationClass"
    aug = root / "SegmentationClassAug"
    (lists / "train.txt").write_text((lists / "train.txt").read_text() + "../../../etc/passwd\n2007_train000\n")
    (lists / "val.txt").write_text("2007_train001\n2011_gone\n" + (lists / "val.txt").read_text())
    (jpegs / "2007_train002.jpg").unlink()
    (aug / "2007_aug003.png").unlink()
    _cut(jpegs / "2007_aug004.jpg", 0.5)
    colours = np.random.default_rng(0).integers(0, 255, (256, 3)).astype(np.uint8)
    _relabel(masks / "2007_val005.png", lambda x: colours[x])
    _relabel(aug / "2007_aug006.png", lambda x: np.full_like(x, 254))
    (jpegs / "2007_val007.jpg").write_bytes(b"")
    return [
        ("bad-name", "train.txt", "line 13: '../../../etc/passwd' points outside", "one NAME per line"),
        ("duplicate-name", "train.txt", "line 14: `2007_train000` is already in line 1", "second"),
        ("leak", "JPEGImages/2007_train001.jpg", "in `train` and in `val`", "lists"),
        ("missing-pair", "val.txt", "line 2: `2011_gone` has neither", "restore"),
        ("missing-image", "SegmentationClass/2007_train002.png", "2007_train002.jpg", "restore the image"),
        ("missing-label", "JPEGImages/2007_aug003.jpg", "2007_aug003.png", "rmrkd data prepare voc12aug"),
        ("corrupt-image", "2007_aug004.jpg", "end marker", "fresh copy"),
        ("label-format", "SegmentationClass/2007_val005.png", "3 channels of uint8 (mode RGB)", "palette images"),
        ("label-value", "SegmentationClassAug/2007_aug006.png", "contains 254 (12288 pixels)", "as published"),
        ("corrupt-image", "2007_val007.jpg", "empty", "fresh copy"),
    ]
