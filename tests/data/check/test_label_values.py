"""Label values that are no class: void values are offered as a setting, and following it helps."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from rmrkd_cli.data.check import check_dataset, quick_check
from rmrkd_cli.data.check.findings import NOTE, select_errors
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.errors import RmrkdError
from tests.data.check.test_check import info_of
from tests.helpers import trees

NAMES = ["background", "road", "building"]
SETTING = re.compile(r"`data\.ignore_labels: (\[.*?\])` in the preset")


def custom(root: Path, **data: object) -> DatasetInfo:
    folders = {part: {"images": f"images/{part}", "labels": f"masks/{part}"} for part in ("train", "val")}
    return info_of("custom", root, **{"classes": NAMES, "train_scale": [16, 16], **folders, **data})


def write(root: Path, *values: list[int], val: list[int]) -> None:
    """Write a pair for each list of label values, all in `train` except the last, `val`."""
    rng = np.random.default_rng(0)
    for number, row in enumerate([*values, val]):
        part = "train" if number < len(values) else "val"
        label = root / f"masks/{part}/{number}.png"
        trees.write_pair(root / f"images/{part}/{number}.jpg", label, rng, (16, len(row)), 2)
        Image.fromarray(np.array([row], np.uint8).repeat(16, 0)).save(label)


@pytest.mark.parametrize(
    ("train", "val", "offered", "shown", "as_class"),
    [
        ([0, 1, 2, 3], [0, 1, 2], [3, 255], "3 means", "it is a class, add its name to `data.classes`"),
        ([0, 1, 2, 11], [0, 1, 2], [11, 255], "11 means", "it is a class, store the number of its class, from 0 to 2"),
        ([0, 1, 2, 254], [0, 1, 11], [11, 254, 255], "11 and 254 mean", "they are classes, store the number of its"),
        ([0, 1, 2, 3, 4], [0, 4], [3, 4, 255], "3 and 4 mean", "they are classes, add their names to `data.classes`"),
        ([0, 3, 7, 9, 11], [0, 12], [3, 7, 9, 11, 12, 255], "3, 7, 9, 11 and 12 mean", "they are classes, store"),
    ],
)  # fmt: skip
def test_a_few_void_values_are_offered_to_ignore(
    train: list[int], val: list[int], offered: list[int], shown: str, as_class: str, tmp_path: Path
) -> None:
    """One setting for the files of all splits: the value of one file alone would leave the next one wrong."""
    write(tmp_path, train, [0, 1, 2, 255], val=val)
    found = select_errors(check_dataset(custom(tmp_path), workers=1).findings)
    [fix] = {finding.fix for finding in found}
    assert f"if {shown} void" in fix
    assert as_class in fix
    [setting] = SETTING.findall(fix)
    assert yaml.safe_load(setting) == offered
    info = custom(tmp_path, ignore_labels=yaml.safe_load(setting))
    assert select_errors(check_dataset(info, workers=1).findings) == []


def test_training_offers_the_same_setting(tmp_path: Path) -> None:
    write(tmp_path, [0, 1, 2, 11], val=[0, 1, 2])
    info = custom(tmp_path)
    samples = find_samples(info, "train")
    with pytest.raises(RmrkdError) as short:
        quick_check(info, {"train": samples})
    with pytest.raises(RmrkdError, match="contains the label 11") as read:
        SampleFiles(info, samples).labels(0)
    for caught in (short, read):
        assert "if 11 means void, set `data.ignore_labels: [11, 255]` in the preset" in caught.value.hint


def test_many_values_are_not_offered_to_ignore(tmp_path: Path) -> None:
    write(tmp_path, list(range(0, 160, 10)), val=[0, 1, 2])
    [found] = select_errors(check_dataset(custom(tmp_path), workers=1).findings)
    assert found.fix.startswith("store the number of the class in each pixel, from 0 to 2")


def test_an_ignored_class_is_noted_once(tmp_path: Path) -> None:
    """The recommended way for data with 0 as void: valid, but the class cannot be learned."""
    write(tmp_path, [0, 1, 2, 255], val=[0, 1, 2])
    info = custom(tmp_path, classes=["void", "road", "building"], ignore_labels=[0, 255])
    [note] = check_dataset(info, workers=1).findings
    assert (note.severity, note.kind, note.file) == (NOTE, "ignored-class", str(tmp_path))
    text = "`data.ignore_labels` contains the class index 0 (`void`): never a target"
    assert text in note.text
    log: list[str] = []
    quick_check(info, {"train": find_samples(info, "train")}, log=log.append)
    assert [line for line in log if text in line]
    assert check_dataset(custom(tmp_path), workers=1).findings == []
