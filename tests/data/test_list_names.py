"""Lists whose lines are no names: the right line is offered, and following it helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmrkd_cli.data.list_names import find_listed_name
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.errors import RmrkdError
from tests.data.test_suffixes import NAMES, custom, errors, write

FOLDER = {"images": "images/train", "labels": "masks/train", "names": "train.txt"}


@pytest.mark.parametrize(
    ("line", "name", "extra"),
    [
        ("images/train/p1.png", "p1", ["folder", "suffix"]),
        ("images/train/p1", "p1", ["folder"]),
        ("./p1.jpg", "p1", ["folder", "suffix"]),
        ("images\\train\\town\\p2.jpg", "town/p2", ["folder", "suffix"]),
        ("/data/mine/images/train/town/p2.jpg", "town/p2", ["folder", "suffix"]),
        ("p10.tif", "p10", ["suffix"]),
        ("p10.bmp", "p10", ["suffix"]),
        ("p10.PNG", "p10", ["suffix"]),
        ("p1_rgb.v2.jpg", "p1_rgb.v2", ["suffix"]),
        ("p1 1", "p1", ["other columns"]),
        ("images/train/p1.jpg masks/train/p1.png", "p1", ["folder", "suffix", "other columns"]),
        ("images/train/p1.jpg,masks/train/p1.png", "p1", ["folder", "suffix", "other columns"]),
        ('"p1.jpg"', "p1", ["suffix", "quotes"]),
        ("images/train/gone.png", "", []),
    ],
)
def test_the_name_in_a_line_is_found(line: str, name: str, extra: list[str]) -> None:
    assert find_listed_name(line, {*NAMES, "p1_rgb.v2"}) == (name, extra)


@pytest.mark.parametrize("line", ["images/train/{}.png", "images/train/{}", "{}.tif", "{}.bmp", "{}.JPG", "{} 1"])
def test_the_right_line_is_offered(line: str, tmp_path: Path) -> None:
    write(tmp_path, ".jpg", ".png")
    names = tmp_path / "train.txt"
    names.write_text("\n".join(map(line.format, NAMES)))
    found = errors(custom(tmp_path, train=FOLDER))
    assert len(found) == len(NAMES)
    [fix] = {fix for _, fix in found}
    assert fix.endswith(f": `p1` in place of `{line.format('p1')}`")
    with pytest.raises(RmrkdError) as caught:
        find_samples(custom(tmp_path, train=FOLDER), "train")
    assert f"in `{names}`, {fix}" in caught.value.hint
    names.write_text("\n".join(NAMES))
    assert errors(custom(tmp_path, train=FOLDER)) == []


def test_an_absolute_path_gets_the_right_line(tmp_path: Path) -> None:
    write(tmp_path, ".jpg", ".png")
    line = f"{tmp_path}/images/train/town/p2.jpg"
    (tmp_path / "train.txt").write_text(f"p1\n{line}")
    [(text, fix)] = errors(custom(tmp_path, train=FOLDER))
    assert "is an absolute path" in text
    assert fix == f"write each name without folder and suffix: `town/p2` in place of `{line}`"


def test_a_list_of_other_files_shows_an_existing_name(tmp_path: Path) -> None:
    """To delete every line would empty the data set; one wrong line among right ones may be deleted."""
    write(tmp_path, ".jpg", ".png")
    (tmp_path / "train.txt").write_text("x1.jpg\nx2.jpg")
    [fix] = {fix for _, fix in errors(custom(tmp_path, train=FOLDER))}
    images = tmp_path / "images/train"
    assert fix == f"a name is a path below `{images}` without suffix: write `p1` for `p1.jpg` there"
    (tmp_path / "train.txt").write_text("p1\nx2.jpg")
    [(_, fix)] = errors(custom(tmp_path, train=FOLDER))
    assert fix == "restore both files, or delete the line"
