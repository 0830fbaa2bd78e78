"""`rmrkd predict`, with nothing but a student file."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from rmrkd_cli.data.normalization import IMAGENET
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.evaluation.model_card import find_config_differences
from rmrkd_cli.prediction import run as predictions
from rmrkd_cli.prediction.inputs import find_inputs
from rmrkd_cli.prediction.overlay import Overlay, find_edges
from rmrkd_cli.prediction.video import new_video
from tests.helpers.cli import Outcome, rmrkd, run_main


def predict(student: Path, *arguments: object) -> Outcome:
    return rmrkd("predict", student, *arguments, "--workers", 0, "--device", "cpu")


def picture(path: Path, size: tuple[int, int] = (96, 64), **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ys, xs = np.mgrid[0 : size[1], 0 : size[0]]
    values = np.stack([xs * 255 // size[0], ys * 255 // size[1], (xs + ys) % 256], -1).astype(np.uint8)
    Image.fromarray(values).save(path, **options)
    return path


SLIDE = ("--mode", "slide", "--crop", "48x64", "--stride", "20x33")
HOWS = {
    "plain": (),
    "averaged": ("--flip", "--scales", "0.5,1.0"),
    "slide": SLIDE,
    "slide-averaged": (*SLIDE, "--flip"),
}


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_label_maps_equal_those_of_eval(how: tuple[str, ...], student: Path, camvid: Path, tmp_path: Path) -> None:
    saved, created = tmp_path / "eval", tmp_path / "predict"
    measured = rmrkd("eval", student, "--data-root", camvid, "--device", "cpu", "--save-predictions", saved, *how)
    assert measured.exit_code == 0
    assert predict(student, camvid / "val", "--out", created, *how).exit_code == 0
    names = sorted(path.name for path in saved.iterdir())
    assert names == ["0.png", "1.png", "2.png", "3.png"]
    kinds = set()
    for name in names:
        theirs, ours = Image.open(saved / name), Image.open(created / name)
        assert np.array_equal(np.asarray(theirs), np.asarray(ours))
        assert (ours.mode, ours.getpalette()) == ("P", theirs.getpalette())
        kinds |= set(np.unique(ours).tolist())
    assert len(kinds) > 1


def test_a_reduced_image_is_named_with_the_options_that_keep_its_size(student: Path, tmp_path: Path) -> None:
    """As 8064x6048 pixels were reduced 84 times without a word."""
    picture(tmp_path / "in" / "big.png", (960, 640))
    picture(tmp_path / "in" / "small.png", (96, 64))
    outcome = predict(student, tmp_path / "in", "--out", tmp_path / "out")
    assert "`{}` was reduced from 960x640 to 96x64 for the network, 100 times fewer pixels".format(
        tmp_path / "in" / "big.png"
    ) in " ".join(outcome.stdout.split())
    assert "--mode slide --scale 960x640 predicts at full size" in outcome.stdout
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())["inputs"]
    assert [entry["network_size"] for entry in entries] == [[96, 64], [96, 64]]
    full = ("--mode", "slide", "--crop", "64x96", "--scale", "960x640")
    outcome = predict(student, tmp_path / "in" / "big.png", "--out", tmp_path / "full", *full)
    assert "was reduced" not in outcome.stdout
    contents = json.loads((tmp_path / "full" / "predictions.json").read_text())
    assert contents["inputs"][0]["network_size"] == [960, 640]
    assert (contents["mode"], contents["window"], contents["stride"]) == ("slide", [64, 96], [43, 64])


def test_passed_over_files_and_pages_are_named(student: Path, tmp_path: Path) -> None:
    page = picture(tmp_path / "in" / "a.png")
    pages = [Image.open(page)] * 3
    pages[0].save(tmp_path / "in" / "stack.tif", save_all=True, append_images=pages[1:])
    for name in ("IMG_1.HEIC", "b/notes.txt", ".hidden"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    outcome = predict(student, tmp_path / "in", "--out", tmp_path / "out", "--overlay", "none")
    assert outcome.exit_code == 0
    text = " ".join(outcome.stdout.split())
    assert f"only the first page of these files was predicted: `{tmp_path / 'in' / 'stack.tif'}` (3)" in text
    assert all(str(tmp_path / "in" / name) in text for name in ("IMG_1.HEIC", "b/notes.txt"))
    assert "convert .heic files to JPEG or PNG" in text
    assert ".hidden" not in text
    contents = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [Path(name).name for name in contents["passed_over"]] == ["IMG_1.HEIC", "notes.txt"]
    assert [entry["pages"] for entry in contents["paged"]] == [3]
    (tmp_path / "heic").mkdir()
    (tmp_path / "heic" / "x.heic").write_bytes(b"x")
    with pytest.raises(RmrkdError, match=r"no image or video, only `.*x\.heic`") as failure:
        find_inputs([tmp_path / "heic"])
    assert "convert .heic" in failure.value.hint


def test_force_replaces_results_but_no_input(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "in" / "x.png")
    assert predict(student, "in", "--overlay", "none").exit_code == 0  # into `predictions`
    again = predict(student, "in", "--overlay", "none")
    assert (again.exit_code, again.message) == (2, "`predictions` is not empty")
    assert "--force" in again.hint
    before = (tmp_path / "predictions" / "x.png").stat().st_mtime_ns
    assert predict(student, "in", "--overlay", "none", "--force").exit_code == 0
    assert (tmp_path / "predictions" / "x.png").stat().st_mtime_ns > before
    original = (tmp_path / "in" / "x.png").read_bytes()
    refused = predict(student, "in", "--out", "in", "--force")
    assert (refused.exit_code, refused.message) == (2, "`in/x.png` is an input and would be replaced")
    assert (tmp_path / "in" / "x.png").read_bytes() == original


def test_outputs_and_shares_of_every_image_are_listed(student: Path, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a" / "x.png", (120, 90))
    picture(tmp_path / "in" / "b" / "x.jpg", (60, 200))
    (tmp_path / "in" / "b" / "notes.txt").write_text("no image")
    outcome = predict(student, tmp_path / "in", "--out", tmp_path / "out")
    assert outcome.exit_code == 0
    assert "2 of 2 inputs" in outcome.stdout
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    pictures = {"a/x.png", "a/x-overlay.png", "b/x.png", "b/x-overlay.png", "legend.png"}
    assert written == pictures | {"predictions.json", "predictions.csv"}
    contents = json.loads((tmp_path / "out" / "predictions.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert contents["dataset"] == "camvid"
    assert contents["scale"] == [96, 64]
    for entry, row, size in zip(contents["inputs"], rows, [(120, 90), (60, 200)], strict=True):
        classes = np.asarray(Image.open(tmp_path / "out" / entry["index"]))
        assert (entry["width"], entry["height"]) == size == classes.shape[::-1]
        for number, name in enumerate(contents["classes"]):
            assert entry["shares"].get(name, 0.0) == pytest.approx(float((classes == number).mean()), abs=1e-6)
            assert float(row[name]) == entry["shares"].get(name, 0.0)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)", []),
        ("img_norm_cfg = dict(mean=[72.4, 82.9, 73.2], std=[1, 1, 1], to_rgb=True)", ["mean 72.4, 82.9, 73.2"]),
        ("data = dict(test=dict(pipeline=[dict(type='A', transforms=[dict(type='Normalize', mean=[123.675, 116.28, "
         "103.53], std=[58.395, 57.12, 57.375], to_rgb=False)])]))", ["BGR"]),
        ("data_preprocessor = dict(type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, "
         "57.375])\nmodel = dict(test_cfg=dict(mode='slide'))", ["BGR", "sliding window"]),
        ("img_norm_cfg = dict(mean=[1, 2], std='x')\nmodel = 3", []),
        ("import os", []),
    ],
)  # fmt: skip
def test_differences_in_preprocessing_are_reported(config: str, expected: list[str]) -> None:
    messages = find_config_differences(config, IMAGENET)
    assert len(messages) == len(expected)
    assert all(part in line for part, line in zip(expected, messages, strict=True))


def test_notes_go_to_stderr(student: Path, tmp_path: Path) -> None:
    contents = torch.load(student, weights_only=True)
    text = contents["meta"]["config"].replace("123.675", "72.4")  # which the network gets, without a note
    contents["meta"]["config"] = text.replace("'mode': 'whole'", "'mode': 'slide'")
    torch.save(contents, tmp_path / "s.pth")
    picture(tmp_path / "x.png")
    for arguments in (("predict", tmp_path / "x.png", "--out", tmp_path / "o"), ("export", tmp_path / "x.pt")):
        code, out, err = run_main(arguments[0], str(tmp_path / "s.pth"), *map(str, arguments[1:]))
        assert code == 0, err
        assert "its config uses a sliding window" in " ".join(err.split())
        assert "72.4" not in err
        assert "sliding" not in out


def test_images_are_rotated_by_their_exif_orientation(student: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "turned.jpg", (96, 64), exif=exif)
    predict(student, tmp_path / "turned.jpg", "--out", tmp_path / "out", "--overlay", "jpg", "--no-legend")
    assert Image.open(tmp_path / "out" / "turned.png").size == (64, 96)
    assert Image.open(tmp_path / "out" / "turned-overlay.jpg").size == (64, 96)


def test_unreadable_inputs_are_listed_and_the_others_are_predicted(student: Path, tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:-200])
    (tmp_path / "none.mkv").touch()
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttps://example.org/x.ts\n")
    (tmp_path / "false.avi").write_bytes(b"RIFF\0\0\0\0AVI LIST" + bytes(range(256)) * 8)
    names = ["empty.png", "page.jpg", "cut.png", "none.mkv", "list.mp4", "false.avi"]
    outcome = predict(student, *(tmp_path / name for name in names), good, "--out", tmp_path / "out")
    assert outcome.exit_code == 1
    assert [name for name in names if name not in outcome.message] == []
    assert "1 of 7 inputs" in outcome.stdout
    contents = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["index"] for entry in contents["inputs"]] == ["good.png"]
    assert len(contents["unread"]) == 6
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"good.png", "good-overlay.png", "legend.png", "predictions.json", "predictions.csv"}


def test_names_of_any_bytes_and_images_of_any_shape(student: Path, tmp_path: Path) -> None:
    """OpenCV aborts the process at a name that is not UTF-8, and mmcv fails if a side is rounded to 0."""
    source = picture(tmp_path / "x.png")
    (tmp_path / "in").mkdir()
    for name in (b"\xff.png", b"=1+1.png", b"\xfe.jpg", b"\xfd.bmp"):
        Image.open(source).save(tmp_path / "in" / "kept", {b"jpg": "JPEG", b"bmp": "BMP"}.get(name[-3:], "PNG"))
        os.rename(tmp_path / "in" / "kept", os.fsencode(tmp_path / "in") + b"/" + name)
    Image.new("RGB", (1000, 1)).save(tmp_path / "in" / "thin.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "in" / "one.png")
    outcome = predict(student, tmp_path / "in", "--out", tmp_path / "out", "--overlay", "none")
    assert outcome.exit_code == 1
    assert "5 of 6 inputs" in outcome.stdout
    assert "1000x1" in outcome.message
    assert Image.open(tmp_path / "out" / "one.png").size == (1, 1)
    assert (tmp_path / "out" / os.fsdecode(b"\xff.png")).is_file()
    rows = list(csv.reader((tmp_path / "out" / "predictions.csv").open()))
    assert len(rows) == 6
    (tmp_path / os.fsdecode(b"\xff.avi")).write_bytes(b"RIFF\0\0\0\0AVI LIST")
    outcome = predict(student, tmp_path / os.fsdecode(b"\xff.avi"), "--out", tmp_path / "video")
    assert "UTF-8" in outcome.message


@pytest.mark.parametrize("most", [20_000, 60_000])
def test_an_incomplete_video_is_deleted(most: int, tmp_path: Path) -> None:
    """OpenCV does not report a full disk."""
    rng = np.random.default_rng(0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write() -> None:
        with new_video(tmp_path / "x.mp4", 10) as writer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
            for _ in range(40):
                writer.add(rng.integers(0, 255, (64, 96, 3), np.uint8))

    try:
        with pytest.raises(RunError, match=r"is (empty|incomplete)"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_inputs_with_equal_names_get_unique_names_or_are_rejected(tmp_path: Path) -> None:
    for name in ("in/x.png", "in/X.jpg", "in/y.png", "other/y.png", "third/y-overlay.png", ".hid/z.png", "in/.z.png"):
        picture(tmp_path / name)
    assert {item.name for item in find_inputs([tmp_path / "in", tmp_path / "in" / "y.png"])} == {"x.png", "X.jpg", "y"}
    result = find_inputs([tmp_path])
    assert {item.name for item in result} == {"in/x.png", "in/X.jpg", "in/y", "other/y", "third/y-overlay"}
    two = [tmp_path / "in" / "y.png", tmp_path / "other" / "y.png"]
    for given in (two, [tmp_path / "in", tmp_path / "third"]):
        with pytest.raises(RmrkdError) as caught:
            find_inputs(given)
        assert caught.value.exit_code == 2
    (tmp_path / "hollow").mkdir()
    with pytest.raises(RmrkdError, match="contains no image"):
        find_inputs([tmp_path / "hollow"])


def test_a_video_keeps_its_size_and_rate(student: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [cv2.resize(rng.integers(0, 255, (6, 9, 3), np.uint8), (96, 64)) for _ in range(5)]
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (96, 64))
    for frame in frames:
        writer.write(frame)
    writer.release()
    assert predict(student, tmp_path / "in.avi", "--out", tmp_path / "out", "--frames").exit_code == 0
    created = cv2.VideoCapture(str(tmp_path / "out" / "in-overlay.mp4"), cv2.CAP_FFMPEG)
    assert [created.get(key) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)] == [96, 64]
    assert created.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    assert sum(created.read()[0] for _ in range(6)) == 5
    indices = sorted((tmp_path / "out" / "in-frames").iterdir())
    assert [path.name for path in indices] == [f"{number:06d}.png" for number in range(5)]
    entry = json.loads((tmp_path / "out" / "predictions.json").read_text())["inputs"][0]
    assert entry["frames"] == 5
    mean = np.mean([(np.asarray(Image.open(path)) == 0).mean() for path in indices])
    assert entry["shares"].get("sky", 0.0) == pytest.approx(mean, abs=1e-6)


def test_a_signal_leaves_only_complete_files(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        picture(tmp_path / "in" / f"{number}.png")
    write = predictions.write_label_png

    def stopped(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(predictions, "write_label_png", stopped)
    outcome = predict(student, tmp_path / "in", "--out", tmp_path / "out")
    assert outcome.exit_code == 130
    assert "1 of 4 inputs" in outcome.message
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"0.png", "0-overlay.png", "legend.png"}
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["inputs"]) == 1
    assert list((tmp_path / "out").glob(".*")) == []


def test_outlines_are_between_classes_and_colours_have_the_opacity() -> None:
    classes = np.zeros((300, 400), np.uint8)
    classes[:, 200:] = 1
    assert np.flatnonzero(find_edges(classes)[0]).tolist() == [199]
    image = np.full((300, 400, 3), 100, np.uint8)
    mixed = Overlay(["a", "b"], [[200, 0, 0], [0, 0, 200]], 0.25).blend(image, classes)
    assert mixed[10, 10].tolist() == [125, 75, 75]
    assert mixed[10, 390].tolist() == [75, 75, 125]
    assert mixed[10, 199].tolist() == [255, 255, 255]
    named = np.asarray(Overlay(["a", "b"], [[200, 0, 0], [0, 0, 200]], 0.25).draw(image, classes))
    for half in (named[:, :190], named[:, 210:]):
        assert (half > 220).all(-1).any()  # the name


def test_a_name_is_drawn_only_if_it_fits_into_its_region() -> None:
    classes = np.zeros((300, 400), np.uint8)
    classes[:, 380:] = 1
    overlay = Overlay(["a", "a class name of more than 20 pixels"], [[200, 0, 0], [0, 0, 200]], 0.25)
    image = np.full((300, 400, 3), 100, np.uint8)
    changed = (np.asarray(overlay.draw(image, classes)) != overlay.blend(image, classes)).any(-1)
    assert changed[:, :370].any()
    assert not changed[:, 370:].any()


def test_a_legend_is_complete_at_any_image_size() -> None:
    from rmrkd_cli.prediction.legend import add_legend

    rows = [(f"a class of number {number}", (0, 255, 0), 0.05) for number in range(20)]
    for size in ((8, 8), (96, 64), (64, 200), (2048, 1024), (700, 1500)):
        result = np.asarray(add_legend(Image.new("RGB", size, "red"), rows))
        assert int((result == (255, 0, 0)).all(-1).sum()) == size[0] * size[1]
        fill = (result == (0, 255, 0)).all(-1).astype(np.uint8)
        assert cv2.connectedComponents(fill)[0] - 1 == 20
