"""`cache-teacher` stores a teacher's outputs, and `train` uses them in its place."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
import yaml

from rmrkd_cli.data.map_file import read_map, write_map
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.distillation.teacher_outputs import read_index
from rmrkd_cli.errors import Interrupted, RmrkdError
from rmrkd_cli.networks.mmseg import build_network, network_config
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.storage.cache import sha256_of
from rmrkd_cli.storage.claims import Claims
from rmrkd_cli.training.caching import command, worker
from tests.helpers import forked, trees
from tests.helpers.cli import run_main
from tests.helpers.network_files import write_onnx
from tests.helpers.resumed import stop_in_step

CPU = ("--device", "cpu")
LOADER = ("--workers", 0)
CLASSES = 11


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    stdout: str
    progress: str


def rmrkd(*arguments: object) -> Outcome:
    return Outcome(*run_main(*map(str, arguments)))


def save_teacher(tiny: Path, path: Path, seed: int = 0) -> Path:
    """Write a teacher whose logits differ between positions."""
    torch.manual_seed(seed)
    network = build_network(network_config(load_preset(str(tiny)).teacher, CLASSES), device="cpu")
    network.decode_head.conv_seg.weight.data.mul_(100)  # type: ignore[union-attr, operator]
    torch.save({"state_dict": network.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def teacher(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher(tiny, tmp_path_factory.mktemp("teacher") / "teacher.pth")


@pytest.fixture(scope="module")
def outputs(tiny: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store the outputs for the four training images with the command line."""
    folder = tmp_path_factory.mktemp("outputs") / "a"
    outcome = cache(tiny, folder, "--teacher-checkpoint", teacher)
    assert outcome.exit_code == 0
    assert "4 images take about 0.00 GB (0.00 MB each)" in outcome.progress
    assert "4 images: 4 stored" in outcome.progress
    assert "logits, mIoU" in outcome.stdout
    return folder


def cache(tiny: Path, folder: Path, *options: object) -> Outcome:
    return rmrkd("cache-teacher", "--preset", tiny, "--out", folder, *options, *CPU, *LOADER)


def train(tiny: Path, folder: Path, work_dir: Path, *options: object) -> Outcome:
    return rmrkd(
        "train", "--preset", tiny, "--method", "kd", "--role", "distill", "--teacher-outputs", folder,
        "--work-dir", work_dir, *CPU, *options,
    )  # fmt: skip


def stored_files(folder: Path) -> list[Path]:
    return sorted((folder / "maps").rglob("*.safetensors"))


@pytest.fixture
def copied(outputs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(outputs, tmp_path / "copy"))


def test_the_index_says_what_is_stored(outputs: Path, teacher: Path) -> None:
    index = read_index(outputs)
    assert index.teachers[0].sha256 == sha256_of(teacher)
    assert (index.scale, index.scales, index.flip, index.values, index.top_k) == (
        (96, 64),
        (1.0,),
        False,
        "logits",
        None,
    )
    assert (index.stride, index.align_corners, index.images) == (8, False, 4)
    assert index.miou is not None
    assert 0 <= index.miou <= 1
    assert index.measured == (4, 4)
    first = read_map(stored_files(outputs)[0])
    assert first.values.shape == (CLASSES, 8, 12)
    assert first.identity == index.identity


def test_a_student_trains_without_the_teachers_file_and_resumes_exactly(
    tiny: Path, outputs: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(tiny, outputs, tmp_path / "whole").exit_code == 0
    stop_in_step(monkeypatch)
    stopped = train(tiny, outputs, tmp_path / "parts")
    assert stopped.exit_code == 143
    monkeypatch.undo()
    resumed = train(tiny, outputs, tmp_path / "parts", "--resume")
    assert resumed.exit_code == 0
    runs = [tmp_path / name / "distill-kd" for name in ("whole", "parts")]
    first, second = (torch.load(run / "student.pth", weights_only=True)["state_dict"] for run in runs)
    assert all(torch.equal(first[key], second[key]) for key in first)
    result = json.loads((runs[0] / "result.json").read_text())
    assert result["taught_by"] == sha256_of(teacher)
    losses = [
        json.loads(line)["losses"] for line in (runs[0] / "log.jsonl").read_text().splitlines() if "losses" in line
    ]
    assert all(each["kd"] > 0 for each in losses)


def test_the_first_losses_are_those_of_the_live_teacher(
    tiny: Path, outputs: Path, teacher: Path, tmp_path: Path
) -> None:
    """At a scale of 1 both see the same logits, apart from what the border and the photometric distortion change."""
    options = ("--max-iters", 1, "--set", "data.ratio_range=[1.0,1.0]")
    stored = train(tiny, outputs, tmp_path / "stored", *options)
    live = rmrkd(
        "train", "--preset", tiny, "--method", "kd", "--role", "distill", "--teacher-checkpoint", teacher,
        "--work-dir", tmp_path / "live", *CPU, *options,
    )  # fmt: skip
    assert (stored.exit_code, live.exit_code) == (0, 0)
    first = [
        json.loads((tmp_path / name / "distill-kd" / "log.jsonl").read_text().splitlines()[0])["losses"]
        for name in ("stored", "live")
    ]
    assert first[0]["ce"] == first[1]["ce"]  # the same images, augmentation and student
    assert first[0]["kd"] == pytest.approx(first[1]["kd"], rel=0.5)


@pytest.mark.parametrize(("labels", "size"), [("none", (6, 6)), ("teacher", (12, 12))])
def test_labels_come_from_all_positions_of_the_teacher_at_its_own_corners(
    tiny: Path, copied: Path, labels: str, size: tuple[int, int]
) -> None:
    """Of a teacher with stride 4 and aligned corners, and a student with stride 8; as of the live teacher."""
    index = read_index(copied).model_copy(update={"stride": 4, "align_corners": True}).identified()
    (copied / "index.json").write_text(index.model_dump_json())
    overrides = ["role=distill", f"teacher.outputs={copied}", f"data.train.labels={labels}"]
    preset = load_preset(str(tiny), method="kd", overrides=overrides)
    built = build_distiller(preset, "distill", CLASSES, device="cpu", log=lambda _: None, with_weights=False)
    outputs = built.stored_outputs([], preset.schedule.crop)
    assert outputs is not None
    assert outputs.size == size
    assert built.distiller.stored_align_corners


def test_a_second_command_writes_only_what_is_missing_or_damaged(tiny: Path, copied: Path, teacher: Path) -> None:
    files = stored_files(copied)
    before = {path: path.stat().st_mtime_ns for path in files}
    files[1].unlink()
    contents, values = files[2].read_bytes(), read_map(files[2]).values
    files[2].write_bytes(contents[:-1] + bytes([contents[-1] ^ 255]))
    outcome = cache(tiny, copied, "--teacher-checkpoint", teacher)
    assert outcome.exit_code == 0
    assert "2 stored, 2 were stored before" in outcome.progress
    assert "teacher: mIoU" not in outcome.progress  # measured before
    assert torch.equal(read_map(files[2]).values, values)
    assert [path for path in files if path.stat().st_mtime_ns == before[path]] == [files[0], files[3]]


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--flip",), "--flip: no in the folder, yes now"),
        (("--scales", "0.5,1"), "--scales: 1 in the folder, 0.5,1 now"),
        (("--top-k", 3), "--top-k: all in the folder, 3 now"),
        (("--set", "data.train_scale=[48,32]"), "size that images are fitted into: 96x64 in the folder, 48x32 now"),
    ],
)
def test_a_folder_of_other_outputs_is_not_filled(
    tiny: Path, outputs: Path, teacher: Path, options: tuple[object, ...], difference: str
) -> None:
    outcome = cache(tiny, outputs, "--teacher-checkpoint", teacher, *options)
    assert outcome.exit_code == 2
    assert "holds other teacher outputs" in outcome.progress
    assert difference in " ".join(outcome.progress.split())


def test_averages_and_the_largest_classes_are_stored(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    other = save_teacher(tiny, tmp_path / "other.pth", seed=1)
    folder = tmp_path / "ensemble"
    outcome = rmrkd(
        "cache-teacher", "--preset", tiny, "--preset", tiny, "--teacher-checkpoint", teacher,
        "--teacher-checkpoint", other, "--out", folder, "--flip", "--scales", "0.5,1", "--top-k", 3, *CPU, *LOADER,
    )  # fmt: skip
    assert outcome.exit_code == 0
    assert (
        "the 3 largest of 11 classes, averaged over 2 teachers and scales 0.5, 1 and mirrored images" in outcome.stdout
    )
    stored = read_map(stored_files(folder)[0])
    assert stored.values.shape == (3, 8, 12)
    assert stored.classes is not None
    assert stored.rest is not None
    total = stored.values.float().exp().sum(0) + stored.rest.float().exp()
    assert torch.allclose(total, torch.ones(8, 12), atol=5e-3)
    assert train(tiny, folder, tmp_path / "run").exit_code == 0


def test_outputs_that_do_not_belong_to_the_run_are_refused(
    tiny: Path, outputs: Path, teacher: Path, tmp_path: Path
) -> None:
    other = save_teacher(tiny, tmp_path / "other.pth", seed=1)
    custom = trees.camvid(tmp_path / "more", images=6)

    def refusal(*options: object) -> str:
        outcome = train(tiny, outputs, tmp_path / "run", *options)
        assert outcome.exit_code == 2
        assert not (tmp_path / "run").exists()
        return " ".join(outcome.progress.split())

    assert "do not belong to this preset: SHA-256 of the teacher" in refusal("--teacher-checkpoint", other)
    assert "data.max_value: None stored, 9.0 now" in refusal("--set", "data.max_value=9")
    fitted = refusal("--set", "data.train_scale=[48,32]", "--set", "schedule.crop=[32,32]")
    assert "size that images are fitted into: 96x64 stored, 48x32 now" in fitted
    missing = refusal("--data-root", custom)
    assert "2 of 6 stored teacher outputs are missing, the first is" in missing
    assert "filled for 4 images, others than these" in missing
    assert "is no folder of stored teacher outputs" in refusal("--teacher-outputs", tmp_path / "none")


def test_an_image_that_cannot_be_read_is_skipped_by_both_commands(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    """It has no stored output, and training needs none."""
    root = trees.camvid(tmp_path / "data", images=4)
    images = sorted((root / "train").glob("*.png"))
    images[1].write_bytes(b"no image")
    options = ("--data-root", root, "--set", "schedule.skip_corrupt=true")
    outcome = cache(tiny, tmp_path / "out", "--teacher-checkpoint", teacher, *options)
    assert "3 stored, 1 unreadable" in outcome.progress
    outcome = train(tiny, tmp_path / "out", tmp_path / "run", *options)
    assert outcome.exit_code == 0, outcome.progress
    stored_files(tmp_path / "out")[2].unlink()
    outcome = train(tiny, tmp_path / "out", tmp_path / "run", *options, "--fresh")
    assert "1 of 4 stored teacher outputs are missing" in " ".join(outcome.progress.split())


def test_methods_on_feature_maps_are_refused_with_those_that_work(tiny: Path, outputs: Path, tmp_path: Path) -> None:
    outcome = rmrkd(
        "train", "--preset", tiny, "--role", "distill", "--teacher-outputs", outputs, "--work-dir", tmp_path, *CPU
    )
    assert outcome.exit_code == 2
    text = " ".join(outcome.progress.split())
    assert "the teacher gives only logits, no feature maps, which `rmrkd` (stage 4) and `mgd` (stage 4) compare" in text
    assert "choose a method on logits: --method bpkd, cwd, dkd-region, kd, lskd;" in text
    assert "--set losses.rmrkd=null --set losses.mgd=null" in text


def test_a_damaged_or_foreign_file_stops_the_run_and_is_named(
    tiny: Path, copied: Path, teacher: Path, tmp_path: Path
) -> None:
    files = stored_files(copied)
    files[0].write_bytes(files[0].read_bytes()[:-1])
    outcome = train(tiny, copied, tmp_path / "run")
    assert outcome.exit_code == 2
    assert f"`{files[0]}` is damaged" in " ".join(outcome.progress.split())
    stored = read_map(files[1])
    write_map(read_map(files[2]), files[0])  # of another image
    outcome = train(tiny, copied, tmp_path / "run", "--fresh")
    assert outcome.exit_code == 2
    assert "is of another image of this name" in " ".join(outcome.progress.split())
    write_map(stored, files[0])
    index = json.loads((copied / "index.json").read_text())
    (copied / "index.json").write_text(json.dumps({**index, "flip": True}))
    with pytest.raises(RmrkdError, match=r"index.json` was changed"):
        read_index(copied)


def test_a_teacher_below_the_minimum_is_refused(tiny: Path, outputs: Path, teacher: Path, tmp_path: Path) -> None:
    outcome = train(tiny, outputs, tmp_path / "run", "--min-teacher-miou", 99)
    assert outcome.exit_code == 2
    assert "below the minimum of 99.00" in outcome.progress
    caching = cache(tiny, tmp_path / "new", "--teacher-checkpoint", teacher, "--set", "teacher.min_miou=99")
    assert caching.exit_code == 2
    assert "below the minimum of 99.00" in caching.progress


def test_a_signal_stops_between_images_and_the_next_command_continues(
    tiny: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = worker._Filler._store

    def stop(self: worker._Filler, *arguments: object) -> None:
        real(self, *arguments)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(worker._Filler, "_store", stop)
    stopped = cache(tiny, tmp_path / "out", "--teacher-checkpoint", teacher)
    assert stopped.exit_code == 143
    assert "run the same command again: it continues" in " ".join(stopped.progress.split())
    assert len(stored_files(tmp_path / "out")) == 1
    assert not list((tmp_path / "out" / "maps").glob(".*"))
    monkeypatch.undo()
    continued = cache(tiny, tmp_path / "out", "--teacher-checkpoint", teacher)
    assert "3 stored, 1 were stored before" in continued.progress


def test_what_does_not_fit_on_the_disk_is_refused(
    tiny: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr("rmrkd_cli.training.caching.images.shutil.disk_usage", lambda _: usage)
    outcome = cache(tiny, tmp_path / "out", "--teacher-checkpoint", teacher)
    assert outcome.exit_code == 2
    assert "4 teacher outputs need 0.00 GB" in outcome.progress
    assert not stored_files(tmp_path / "out")


def test_two_workers_and_two_commands_share_the_images(
    tiny: Path, teacher: Path, tmp_path: Path, forked_workers: None, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    (tmp_path / "first").mkdir()
    words = ["cache-teacher", "--preset", str(tiny), "--out", str(folder), "--teacher-checkpoint", str(teacher)]
    words += ["--device", "cpu", "--workers", "0"]
    process = forked.server().Process(
        target=forked._command, args=(words, str(tmp_path / "first"), str(tmp_path / "first" / "text"))
    )
    process.start()
    outcome = rmrkd(*words, "--gpus", 2)
    process.join(120)
    assert outcome.exit_code == 0
    assert process.exitcode == 0
    texts = [capfd.readouterr().err, (tmp_path / "first" / "text").read_text()]
    counts = [int(text.split("images: ")[1].split(" stored")[0]) for text in texts]
    assert sum(counts) == 4 == len(stored_files(folder))
    assert cache(tiny, folder, "--teacher-checkpoint", teacher).progress.count("0 stored, 4 were stored before") == 1


def _hold(path: Path, numbers: list[int], connection: Connection) -> None:
    with Claims(path) as claims:
        connection.send([claims.take(number) for number in numbers])
        connection.recv()


def test_an_image_that_another_command_works_on_is_left_to_it(tiny: Path, copied: Path, teacher: Path) -> None:
    for path in stored_files(copied):
        path.unlink()
    ours, theirs = multiprocessing.Pipe()
    process = forked.server().Process(target=_hold, args=(copied / worker.CLAIMS, [2], theirs))
    process.start()
    assert ours.recv() == [True]
    outcome = cache(tiny, copied, "--teacher-checkpoint", teacher)
    assert "3 stored, 1 by another command" in outcome.progress
    process.kill()  # the system drops its claims
    process.join()
    assert "1 stored, 3 were stored before" in cache(tiny, copied, "--teacher-checkpoint", teacher).progress


@pytest.mark.parametrize("fixed", [False, True])
def test_a_teacher_that_is_a_file_is_stored(tiny: Path, tmp_path: Path, fixed: bool) -> None:
    file = write_onnx(tmp_path / "teacher.onnx", CLASSES, shape=("n", 3, 32, 48) if fixed else ("n", 3, "h", "w"))
    preset = tmp_path / "file.yaml"
    contents = yaml.safe_load(tiny.read_text())
    preset.write_text(yaml.safe_dump({**contents, "teacher": {"library": "onnx", "file": str(file)}}))
    outcome = cache(preset, tmp_path / "out")
    assert outcome.exit_code == 0
    stored = read_map(stored_files(tmp_path / "out")[0])
    assert stored.values.shape == (CLASSES, *((32, 48) if fixed else (64, 96)))
    assert stored.covered == stored.fitted == (64, 96)
    assert read_index(tmp_path / "out").teachers[0].sha256 == sha256_of(file)
    for change in (
        "teacher.input.color=bgr",
        "teacher.output=probabilities",
        f"teacher.classes={[*range(CLASSES)][::-1]}",
    ):
        refused = train(preset, tmp_path / "out", tmp_path / "run", "--set", change)
        assert refused.exit_code == 2
        assert "SHA-256 of the teacher's description" in refused.progress
    write_onnx(tmp_path / "other.onnx", CLASSES, scale=0.02)
    os.replace(tmp_path / "other.onnx", file)
    assert "SHA-256 of the teacher" in train(preset, tmp_path / "out", tmp_path / "run").progress
    file.unlink()
    refused = train(preset, tmp_path / "out", tmp_path / "run", "--set", "teacher.input.color=bgr")
    assert "SHA-256 of the teacher's description" in refused.progress
    assert train(preset, tmp_path / "out", tmp_path / "run").exit_code == 0


def test_inputs_that_cannot_be_used_are_named(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    def refusal(*options: object, preset: object = tiny) -> str:
        outcome = rmrkd("cache-teacher", "--preset", preset, "--out", tmp_path / "out", *options, *CPU, *LOADER)
        assert outcome.exit_code == 2
        return " ".join(outcome.progress.split())

    assert "needs a trained teacher" in refusal()
    assert "--top-k 11: the data set has 11 classes" in refusal("--teacher-checkpoint", teacher, "--top-k", 11)
    assert "--preset names 1 teacher(s), --teacher-checkpoint 2" in refusal(
        "--teacher-checkpoint", teacher, "--teacher-checkpoint", teacher
    )
    two = refusal("--preset", "demo", "--teacher-checkpoint", teacher, "--teacher-checkpoint", teacher)
    assert "the teachers have different classes" in two or "does not match" in two
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "file").touch()
    assert "is not empty" in refusal("--teacher-checkpoint", teacher)


def test_the_python_function_raises_what_the_command_prints(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RmrkdError, match="needs a trained teacher"):
        command.cache_teacher([load_preset(str(tiny))], tmp_path / "out", "cpu", None)  # type: ignore[arg-type]
    assert issubclass(Interrupted, RmrkdError)


def test_two_workers_train_from_stored_outputs(tiny: Path, outputs: Path, tmp_path: Path, forked_workers: None) -> None:
    options = ("--max-iters", 1, "--batch-size", 2, "--gpus", 2)
    assert train(tiny, outputs, tmp_path, *options).exit_code == 0
    first = json.loads((tmp_path / "distill-kd" / "log.jsonl").read_text().splitlines()[0])
    assert first["losses"]["kd"] > 0
