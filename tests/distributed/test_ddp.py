from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.parallel import DistributedDataParallel

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.distributed.device import BACKEND
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.run import train
from tests.distributed import gradients
from tests.helpers import trees
from tests.helpers.cli import rmrkd
from tests.helpers.forked import run_ranks
from tests.helpers.ports import free_port

SHORT = [f"schedule.{key}" for key in ("crop=[64, 64]", "iters=2", "eval_interval=2", "checkpoint_interval=1")]


def test_two_workers_with_two_images_have_the_gradients_of_one_with_four(tiny: Path, tmp_path: Path) -> None:
    gradients.main(str(tiny), str(tmp_path / "one.pt"))
    run_ranks(gradients.rank_of_two, gradients.main, str(tiny), str(tmp_path / "two.pt"), free_port())
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert one.keys() == two.keys()
    for name in one:
        assert one[name] is not None, f"{name} is never used"
        difference = (one[name].double() - two[name].double()).norm() / one[name].double().norm().clamp_min(1e-12)
        assert difference < 1e-5, name


def test_adamw_moves_a_segformer_alike_on_two_workers_and_on_one_with_all_images(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    gradients.adamw(str(tiny), str(tmp_path / "one.pt"))
    run_ranks(gradients.rank_of_two, gradients.adamw, str(tiny), str(tmp_path / "two.pt"), free_port())
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert (one["gradients"] - two["gradients"]).norm() < 1e-6 * one["gradients"].norm()
    # AdamW divides by the size of the gradient: of those near 0, rounding decides the sign
    assert (one["change"] - two["change"]).norm() < 1e-5 * one["change"].norm()


def test_one_worker_with_a_process_group_gives_the_same_result(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RMRKD_PROCESS_GROUP, which tests NCCL and DDP on one GPU."""
    wrapped = []
    monkeypatch.setattr(
        DistContext,
        "wrap_ddp",
        lambda *args, real=DistContext.wrap_ddp, **kwargs: wrapped.append(real(*args, **kwargs)) or wrapped[-1],
    )
    preset = load_preset(str(tiny), overrides=["role=baseline"])
    students = []
    for backend in ("", "gloo"):
        monkeypatch.setenv(BACKEND, backend)
        train(preset, tmp_path / f"with-{backend}", "cpu", Cluster())
        student = torch.load(tmp_path / f"with-{backend}" / "baseline" / "student.pth", weights_only=True)
        students.append(student["state_dict"])
        assert not torch.distributed.is_initialized()
    assert [isinstance(model, DistributedDataParallel) for model in wrapped] == [False, True]
    assert all(torch.equal(students[0][key], students[1][key]) for key in students[0])


@pytest.mark.usefixtures("forked_workers")
def test_training_and_evaluation_by_two_workers(tiny: Path, tmp_path: Path) -> None:
    """Five images of two sizes: shared unevenly, and in other batches than with one worker."""
    images = trees.camvid(tmp_path / "images", images=5)
    for number in (1, 4):
        image, label = images / "val" / f"{number}.png", images / "valannot" / f"{number}.png"
        trees.write_pair(image, label, np.random.default_rng(number), (80, 64), 11)
    preset = load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=2", f"data.root={images}"])
    record = train(preset, tmp_path, "cpu", Cluster(workers=2))[0]
    assert record["training"]["workers"] == 2
    student = tmp_path / "baseline" / "student.pth"
    alone = json.loads(rmrkd("eval", student, "--device", "cpu", "--json", "-").stdout)
    options = ("--gpus", 2, "--device", "cpu", "--batch-size", 3, "--workers", 1)
    shared = json.loads(rmrkd("eval", student, "--json", "-", *options).stdout)
    for other in (record, shared):  # the first counted with batch size 1, by two workers
        assert {key: other[key] for key in ("protocol", "matrix", "per_image")} == {
            key: alone[key] for key in ("protocol", "matrix", "per_image")
        }
    assert alone["per_image"]["names"] == ["0", "1", "2", "3", "4"]
    assert sum(map(sum, alone["matrix"])) == sum(sum(counts[2::4]) for counts in alone["per_image"]["counts"]) > 0
    student.unlink()
    with pytest.raises(RmrkdError, match=r"trained by 2 worker\(s\) with batch size 2, not by 1 with 2") as error:
        train(preset, tmp_path, "cpu", Cluster(), resume=True)
    assert "--force" in error.value.hint


@pytest.mark.usefixtures("forked_workers")
def test_two_workers_resume_adamw_and_a_segformer_bit_for_bit(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    preset = load_preset(str(tiny), overrides=["role=baseline", *SHORT, *gradients.SEGFORMER])
    train(preset, tmp_path, "cpu", Cluster(workers=2))
    run = tmp_path / "baseline"
    whole = torch.load(run / "iter_2.pth", weights_only=True)
    for name in ("student.pth", "result.json", "iter_2.pth", "last.pth", "best.pth"):
        (run / name).unlink()
    assert (run / "iter_1.pth").is_file()
    train(preset, tmp_path, "cpu", Cluster(workers=2), resume=True)
    again = torch.load(run / "iter_2.pth", weights_only=True)
    assert all(torch.equal(value, again["state_dict"][key]) for key, value in whole["state_dict"].items())
    states = whole["optimizer"]["state"], again["optimizer"]["state"]
    assert states[0].keys() == states[1].keys()
    for key, state in states[0].items():
        assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(value, states[1][key][name]) for name, value in state.items())


@pytest.mark.usefixtures("begun", "forked_workers")
@pytest.mark.parametrize("loaders", [0, 1])
def test_an_error_on_one_worker_is_reported_once_with_its_message(
    tiny: Path, camvid: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], loaders: int
) -> None:
    """One worker reads a damaged label file while the other waits for it in an all_reduce of gradients."""
    broken = shutil.copytree(camvid, tmp_path / "broken")
    (broken / "trainannot" / "2.png").write_bytes(b"no picture")
    overrides = ["role=baseline", f"data.root={broken}", f"schedule.workers={loaders}"]
    preset = load_preset(str(tiny), overrides=overrides)
    with pytest.raises(RmrkdError, match=r"2\.png` cannot be read as a label map") as failure:
        train(preset, tmp_path / "work", "cpu", Cluster(workers=2))
    assert failure.value.exit_code == 1
    assert "Traceback" not in failure.value.message
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("begun")
def test_an_error_in_a_loader_process_keeps_its_message(tiny: Path, camvid: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(camvid, tmp_path / "broken")
    Image.new("L", (96, 64), 77).save(broken / "valannot" / "1.png")
    preset = load_preset(str(tiny), overrides=["role=baseline", f"data.root={broken}", "schedule.workers=1"])
    with pytest.raises(RmrkdError, match=r"1\.png` contains the label 77") as failure:
        train(preset, tmp_path / "work", "cpu", Cluster())
    assert "ignore_labels" in failure.value.hint
    assert "Traceback" not in failure.value.message
