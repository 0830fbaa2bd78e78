"""Teachers that are files, from the preset to the student: training, evaluation, comparison, prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from onnx import TensorProto
from PIL import Image

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.transforms import NORMALIZE
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.feature_maps import segment
from rmrkd_cli.networks.file_network import FileNetwork
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.results.record import read_record
from rmrkd_cli.storage.cache import sha256_of
from rmrkd_cli.training.network_check import check_networks
from rmrkd_cli.training.run import train
from tests.helpers.cli import rmrkd
from tests.helpers.network_files import Tiny, weights, write_onnx, write_torchscript
from tests.helpers.students import random_student

CHANNELS, CLASSES = 13, 11
MAP = [*range(CLASSES), 0, "ignore"]  # of 13 channels to CamVid's 11 classes
OPTIONS = ("--mean", "127.5", "--std", "127.5", "--classes", ",".join(map(str, MAP)))
WITH_KD = {"role": "distill", "losses": {"kd": {"type": "kd", "weight": 1.0}}}
KD = ["losses={kd: {type: kd, weight: 1.0}}"]
REAL = Path(__file__).parents[3] / "shared"  # beside the checkout: a real teacher and CamVid, on some machines
REAL_FILE = REAL / "weights" / "cityscapes-teacher.onnx"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network of 13 channels as ONNX and as TorchScript."""
    folder = tmp_path_factory.mktemp("files")
    return {
        "onnx": write_onnx(folder / "teacher.onnx", CHANNELS, scale=1.0),
        "torchscript": write_torchscript(folder / "teacher.pt", Tiny(CHANNELS, 1.0)),
    }


def settings(library: str, file: Path, classes: Any = MAP, **more: Any) -> list[str]:
    """Return the changes that put a file in place of a preset's teacher."""
    described = {"input": {"mean": [127.5] * 3, "std": [127.5] * 3}, "classes": classes, **more}
    return ["teacher=" + json.dumps({"library": library, "file": str(file), **described})]


def labels_of(image: Path) -> np.ndarray:
    """Return the classes that the tiny network gives an image, computed with NumPy."""
    pixels = np.asarray(Image.open(image).convert("RGB"), np.float64) / 127.5 - 1
    logits = pixels @ weights(CHANNELS).T.astype(np.float64)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    summed = shares[..., :CLASSES].copy()
    summed[..., 0] += shares[..., 11]
    return summed.argmax(-1)


@pytest.mark.parametrize("library", ["onnx", "torchscript"])
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_step_takes_the_logits_of_the_file(
    library: str, amp: str, files: dict[str, Path], tiny: Path, camvid: Path
) -> None:
    preset = load_preset(str(tiny), overrides=[*settings(library, files[library]), *KD])
    info, lines = dataset_info(preset), list[str]()
    built = build_distiller(preset, "distill", CLASSES, device="cpu", log=lines.append, info=info)
    assert built.sources["teacher"] == {"source": str(files[library]), "sha256": sha256_of(files[library])}
    runtime = {"onnx": "onnxruntime on the CPU", "torchscript": "torch"}[library]
    assert any(
        f"runs in {runtime}: images in RGB order" in line
        and "13 channels summed to 11 classes, 1 of them ignored; it declares no class names" in line
        for line in lines
    )
    model = built.distiller.train()
    images, labels = torch.randn(2, 3, 48, 48), torch.randint(0, CLASSES, (2, 1, 48, 48))
    if amp == "bf16":
        model.cast_teacher(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp == "bf16"):
        losses, maps = model.forward_with_features(images, labels)
        assert isinstance(model.teacher, FileNetwork)
        teacher = model.teacher(images)
        theirs = torch.nn.functional.interpolate(teacher, maps["logits"].shape[2:], mode="bilinear")
        expected = model.losses["kd"](maps["logits"], theirs, labels)
    assert torch.allclose(losses["kd"], expected, rtol=1e-5)
    model.total(losses).backward()
    assert not any("teacher" in key for key in model.state_dict())


def test_a_student_is_trained_by_two_workers_and_compared_with_its_teacher(
    files: dict[str, Path], tiny: Path, camvid: Path, tmp_path: Path, forked_workers: None
) -> None:
    """The teacher is measured first; the comparison knows it by its SHA-256."""
    outcome = rmrkd(
        "train", "--preset", tiny, "--role", "distill", "--method", "kd", "--work-dir", tmp_path / "w",
        "--device", "cpu", "--gpus", 2, *(part for each in settings("onnx", files["onnx"]) for part in ("--set", each)),
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.message
    run = tmp_path / "w" / "distill-kd"
    assert read_checkpoint(run / "student.pth").meta["sources"]["teacher"]["sha256"] == sha256_of(files["onnx"])
    config = load_preset(str(run / "config.yaml"))
    assert config.teacher.classes == MAP
    outcome = rmrkd(
        "compare", run / "student.pth", files["onnx"], "--json", "-", "--device", "cpu",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.message
    report = json.loads(outcome.stdout)
    assert [group["role"] for group in report["groups"]] == ["distill", "teacher"]
    teacher = report["results"][1]
    assert (teacher["parameters"], teacher["macs"]) == (3 * CHANNELS, 3 * CHANNELS * 96 * 64)
    assert teacher["checkpoint_bytes"] == files["onnx"].stat().st_size
    assert teacher["latency"]["median_ms"] > 0
    # the options describe the file as well as the preset does
    (tmp_path / "data.yaml").write_text(tiny.read_text())
    outcome = rmrkd(
        "eval", files["onnx"], "--preset", tmp_path / "data.yaml", "--json", "-", "--device", "cpu", *OPTIONS
    )
    assert json.loads(outcome.stdout)["matrix"] == teacher["matrix"]


@pytest.mark.parametrize("library", ["onnx", "torchscript"])
def test_eval_and_predict_take_the_file(library: str, files: dict[str, Path], camvid: Path, tmp_path: Path) -> None:
    expected = {path.name: labels_of(path) for path in sorted((camvid / "val").iterdir())}
    out = tmp_path / "out"
    outcome = rmrkd(
        "predict", files[library], camvid / "val", "--dataset", "camvid", "--scale", "96x64", "--out", out,
        "--workers", 0, "--device", "cpu", *OPTIONS,
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.message
    for name, labels in expected.items():
        assert (np.asarray(Image.open(out / name)) != labels).mean() < 1e-3  # float32 rounds ties
    options = ["--dataset", "camvid", "--data-root", camvid, "--workers", 0, "--device", "cpu"]
    outcome = rmrkd("eval", files[library], *options, "--save-predictions", tmp_path / "eval", *OPTIONS)
    assert outcome.exit_code == 0, outcome.message
    assert "mIoU" in outcome.stdout


def test_a_preset_describes_the_file_of_its_teacher_in_any_folder(
    files: dict[str, Path], tiny: Path, camvid: Path, tmp_path: Path
) -> None:
    preset = tmp_path / "t.yaml"
    options = ["--preset", preset, "--data-root", camvid, "--workers", 0, "--device", "cpu", "--json", "-"]
    for name in ("elsewhere/teacher.onnx", "elsewhere/another.onnx"):
        text = yaml.safe_load(tiny.read_text())
        text |= {"teacher": yaml.safe_load(settings("onnx", Path(name))[0].removeprefix("teacher=")), **WITH_KD}
        preset.write_text(yaml.safe_dump(text))
        outcome = rmrkd("eval", files["onnx"], *options)
        assert (outcome.exit_code == 0) == ("teacher.onnx" in name), outcome.message
    assert "13 channels, the data set has 11 classes" in outcome.message


def test_a_file_that_names_classes_needs_no_options(camvid: Path, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "n.onnx", 3, kind=TensorProto.UINT8, metadata={"classes": '["a", "b", "c"]'})
    outcome = rmrkd("predict", path, camvid / "val", "--out", tmp_path / "out", "--workers", 0, "--device", "cpu")
    assert outcome.exit_code == 0, outcome.message
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["classes"] == ["a", "b", "c"]


def test_predict_takes_the_image_size_of_an_exported_file(camvid: Path, tmp_path: Path) -> None:
    described = {"normalized_inside": True, "resize": {"size": [48, 40], "keep_ratio": True}}
    metadata = {"classes": '["a", "b", "c"]', "dataset": '"custom"', "preprocessing": json.dumps(described)}
    path = write_onnx(tmp_path / "n.onnx", 3, kind=TensorProto.UINT8, metadata=metadata)
    outcome = rmrkd("predict", path, camvid / "val", "--out", tmp_path / "out", "--workers", 0, "--device", "cpu")
    assert outcome.exit_code == 0, outcome.message
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["scale"] == [48, 40]
    outcome = rmrkd("eval", path, "--device", "cpu")
    assert "does not name its folders" in outcome.message
    assert "--preset FILE" in outcome.hint


@pytest.mark.parametrize("form", ["pt", pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_file_that_export_wrote_is_measured_and_teaches(
    form: str, tiny: Path, camvid: Path, tmp_path: Path
) -> None:
    """Without any description: it normalizes its images itself, and names its classes and data set."""
    student, exported = tmp_path / "student.pth", tmp_path / f"student.{form}"
    random_student(student, str(tiny))
    assert rmrkd("export", student, exported).exit_code == 0
    options = ["--preset", tiny, "--json", "-", "--workers", 0, "--device", "cpu"]
    outcomes = [rmrkd("eval", file, *options) for file in (student, exported)]
    assert [outcome.exit_code for outcome in outcomes] == [0, 0], outcomes
    records = [json.loads(outcome.stdout) for outcome in outcomes]
    totals = [np.asarray(record["matrix"]) for record in records]
    assert np.abs(totals[0] - totals[1]).sum() <= 1e-3 * totals[0].sum()
    assert records[1]["role"] == "distill"
    library = {"pt": "torchscript", "onnx": "onnx"}[form]
    teacher = [f"teacher={{library: {library}, file: {exported}}}"]
    preset = load_preset(str(tiny), overrides=[*teacher, *KD, "schedule.iters=1", "role=distill"])
    (record,) = train(preset, tmp_path / "w", "cpu")
    assert record["taught_by"] == sha256_of(exported)
    assert rmrkd("export", exported, tmp_path / "again.onnx").message.startswith(f"`{exported}` is exported already")


def refusal(tiny: Path, overrides: list[str], method: str | None = "kd") -> RmrkdError:
    preset = load_preset(str(tiny), method=method, overrides=overrides)
    with pytest.raises(RmrkdError) as caught:
        check_networks(preset, ["distill"], CLASSES, info=dataset_info(preset))
    return caught.value


def test_methods_on_feature_maps_are_refused_by_name(files: dict[str, Path], tiny: Path) -> None:
    error = refusal(tiny, settings("onnx", files["onnx"]), None)
    assert error.message == (
        "the teacher gives only logits, no feature maps, which `rmrkd` (stage 4) and `mgd` (stage 4) compare"
    )
    assert error.hint.startswith("choose a method on logits: --method ")
    assert {"kd", "cwd"} <= set(error.hint.partition(";")[0].split("--method ")[1].split(", "))
    assert "rmrkd," not in error.hint


def test_wrong_class_maps_are_refused_before_training(files: dict[str, Path], tiny: Path) -> None:
    file = files["onnx"]
    short = refusal(tiny, settings("onnx", file, MAP[:-1]))
    assert short.message == f"the class map has 12 entries, `{file}` has 13 channels"
    untaught = refusal(tiny, settings("onnx", file, [*range(10), 0, 0, 0]))
    assert untaught.message == f"no channel of `{file}` maps to the class `bicyclist`: nothing would teach it"
    without = refusal(tiny, settings("onnx", file, None))
    assert without.message.startswith(f"`{file}` has 13 channels, the data set has 11 classes")


def test_the_teacher_role_cannot_train_a_file(files: dict[str, Path], tiny: Path, tmp_path: Path) -> None:
    preset = load_preset(str(tiny), overrides=[*settings("onnx", files["onnx"]), *KD, "role=teacher"])
    with pytest.raises(RmrkdError, match="the role `teacher` trains a network, and the teacher is the file"):
        train(preset, tmp_path, "cpu")


def test_options_for_files_are_refused_for_checkpoints(tiny: Path, tmp_path: Path) -> None:
    student = tmp_path / "student.pth"
    random_student(student, str(tiny))
    outcome = rmrkd("eval", student, "--mean", "1")
    assert outcome.exit_code == 2
    assert "are for ONNX and TorchScript files, and no such file is given" in outcome.message


# Values of options that have another form, and the message.
BAD_OPTIONS = [
    (("--mean", "1,2"), "--mean `1,2` must be three numbers"),
    (("--std", "x"), "--std `x` must be three numbers"),
    (("--input-size", "481"), "--input-size `481` must be HEIGHTxWIDTH"),
    (("--classes", "1,999"), "--classes `1,999` must hold class indices from 0 to 254"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_option_values_are_refused(options: tuple[str, str], message: str, files: dict[str, Path]) -> None:
    outcome = rmrkd("eval", files["onnx"], "--dataset", "camvid", *options)
    assert (outcome.exit_code, outcome.message.startswith(message)) == (2, True), outcome.message


def test_a_class_map_is_read_from_a_file(files: dict[str, Path], camvid: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("[" + ", ".join(map(str, MAP)) + "]\n")
    options = ["--dataset", "camvid", "--data-root", camvid, "--json", "-", "--workers", 0, "--device", "cpu"]
    one, two = (
        json.loads(rmrkd("eval", files["onnx"], *options, "--classes", text).stdout)["matrix"]
        for text in (path, ",".join(map(str, MAP)))
    )
    assert one == two


def test_crops_are_scaled_as_whole_images_are(tmp_path: Path) -> None:
    """`size` is that of a whole image of the evaluation: a crop is not stretched to it."""
    from rmrkd_cli.networks.onnx_runner import OnnxRunner

    runner = OnnxRunner(write_onnx(tmp_path / "free.onnx", 3))
    network = FileNetwork(runner, given={"size": [96, 192]}, image_size=(48, 64))
    assert network(torch.randn(1, 3, 48, 64)).shape[2:] == (96, 192)
    assert network(torch.randn(1, 3, 24, 24)).shape[2:] == (48, 72)
    fixed = OnnxRunner(write_onnx(tmp_path / "fixed.onnx", 3, shape=("n", 3, 96, 192)))
    network = FileNetwork(fixed, given={"size": [96, 192]}, image_size=(48, 64))
    assert network(torch.randn(1, 3, 24, 24)).shape[2:] == (96, 192)


class Strided:
    """A file that gives every 16th pixel, from the first one on, as a convolution with stride does."""

    file, metadata, fixed, dtype, parameters, runtime = "strided", {}, (None, None), torch.float32, 0, "torch"  # type: ignore[var-annotated]

    def run(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :, ::16, ::16]

    def try_once(self, size: tuple[int, int] | None) -> torch.Tensor:
        return self.run(torch.zeros(1, 3, *(size or (128, 128))))


@pytest.mark.parametrize("size", [(360, 480), (224, 224), (97, 310)])
def test_positions_on_the_corners_are_resized_to_the_pixels_where_they_lie(size: tuple[int, int]) -> None:
    """Of whole images, and of crops, which are scaled to such a size too. Without the key, up to 8 pixels beside."""
    rows, columns = torch.meshgrid(*(torch.arange(float(side)) for side in size), indexing="ij")
    images = torch.stack([rows, columns, rows])[None]
    worst = {}
    for corners in (True, False):
        given = {"size": [481, 641], "align_corners": corners, "mean": [0.0] * 3, "std": [1.0] * 3}
        network = FileNetwork(Strided(), given=given, image_size=(360, 480))  # type: ignore[arg-type]
        mean, std = (torch.tensor(NORMALIZE[key]).view(3, 1, 1) for key in ("mean", "std"))
        found = segment(network, (images - mean) / std)
        worst[corners] = float((found - images)[:, :, 1:-1, 1:-1].abs().max())
        assert ("align_corners: true" in network.describe()) != corners
    assert worst[True] < 0.5
    assert worst[False] > 4


def test_a_checkpoint_that_describes_a_file_does_not_open_it(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    config = {"library": "onnx", "file": "/etc/passwd", "num_classes": 2}
    torch.save({"meta": {"network": config}, "state_dict": {"a": torch.zeros(2)}}, path)
    outcome = rmrkd("predict", path, tmp_path)
    assert outcome.message == f"`{path}` describes a network that is another file"


@pytest.mark.slow
@pytest.mark.skipif(not REAL_FILE.is_file(), reason=f"no {REAL_FILE.name} in a folder beside the checkout")
def test_the_real_teacher_has_its_known_miou(tmp_path: Path) -> None:
    """On every third CamVid validation image, at 641x481, by the class map of its author."""
    source = REAL / "data" / "camvid"
    for split in ("val", "valannot"):
        (tmp_path / split).mkdir()
        for image in sorted((source / split).iterdir())[::3]:
            (tmp_path / split / image.name).write_bytes(image.read_bytes())
    classes = "3,4,1,1,7,2,6,6,5,5,0,9,10,8,8,8,8,10,10"
    outcome = rmrkd(
        "eval", REAL_FILE, "--dataset", "camvid", "--data-root", tmp_path, "--mean", "127.5", "--std", "127.5",
        "--input-size", "481x641", "--classes", classes, "--json", tmp_path / "r.json", "--device", "cpu",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.message
    assert 100 * read_record(tmp_path / "r.json")["metrics"]["miou"] == pytest.approx(58.2, abs=0.5)
