"""AdamW, factors for some parameters and warm-up: mmcv's values, exact resume, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import Interrupted, RmrkdError
from rmrkd_cli.losses import FitNetLoss
from rmrkd_cli.networks.mmseg import build_network, network_config
from rmrkd_cli.presets.loader import load_preset, to_yaml
from rmrkd_cli.presets.network_schema import Network
from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.training.extension import extend
from rmrkd_cli.training.learning_rate import learning_rate
from rmrkd_cli.training.optimizer import ScheduledOptimizer
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.progress import Progress
from rmrkd_cli.training.run import train
from tests.helpers.cli import rmrkd
from tests.training.test_survival import set_asynchronous
from tests.training.test_training import stop_in_step

CPU = torch.device("cpu")
# The values of mmsegmentation's `configs/segformer`.
SEGFORMER: dict[str, Any] = {
    "optimizer": {
        "type": "AdamW",
        "betas": [0.9, 0.999],
        "custom_keys": {"pos_block": {"decay_mult": 0}, "norm": {"decay_mult": 0}, "head": {"lr_mult": 10}},
    },
    "lr": 6e-5,
    "weight_decay": 0.01,
    "power": 1.0,
    "min_lr": 0.0,
    "warmup": {"iters": 1500, "ratio": 1e-6},
}
ADAMW = ("schedule.optimizer.type=AdamW", "schedule.lr=0.01", "schedule.warmup.iters=3")
HEAD = "schedule.optimizer.custom_keys={head: {lr_mult: 10}, bn: {decay_mult: 0}}"


def schedule(**changed: Any) -> Schedule:
    return Schedule.model_validate({**SEGFORMER, **changed})


def mit() -> nn.Module:
    """A SegFormer of mmsegmentation, small."""
    config = "segformer/segformer_mit-b0_512x512_160k_ade20k.py"
    overrides = {"backbone.embed_dims": 8, "backbone.num_layers": [1, 1, 1, 1], "decode_head.channels": 8}
    overrides |= {"decode_head.in_channels": [8, 16, 40, 64], "backbone.num_heads": [1, 2, 5, 8]}
    return build_network(network_config(Network(config=config, overrides=overrides), 5), device="cpu")


def rates_of_mmcv(made: Schedule, base: float, steps: range) -> list[float]:
    """Return the learning rates that mmcv's hook sets."""
    from mmcv.runner.hooks.lr_updater import PolyLrUpdaterHook

    warmup = {} if made.warmup is None else {"warmup_iters": made.warmup.iters, "warmup_ratio": made.warmup.ratio}
    name = "linear" if warmup else None
    hook = PolyLrUpdaterHook(power=made.power, min_lr=made.min_lr, by_epoch=False, warmup=name, **warmup)
    optimizer = SimpleNamespace(param_groups=[{"lr": base}])
    runner = SimpleNamespace(optimizer=optimizer, max_iters=made.iters, max_epochs=None, iter=0)
    hook.before_run(runner)
    rates = []
    for runner.iter in steps:
        hook.before_train_iter(runner)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("factor", [1.0, 10.0])
@pytest.mark.parametrize("changed", [{"iters": 4000}, {"iters": 1600, "power": 0.9, "min_lr": 1e-6}, {"warmup": None}])
def test_learning_rates_are_those_of_mmcv(changed: dict[str, Any], factor: float) -> None:
    made = schedule(**changed)
    steps = range(min(made.iters, 4000))
    assert [learning_rate(made, step, factor) for step in steps] == rates_of_mmcv(made, made.lr * factor, steps)


def test_warm_up_rises_from_the_ratio_to_the_full_rate() -> None:
    made = schedule(iters=10**6)
    assert learning_rate(made, 0) == pytest.approx(6e-11)
    assert learning_rate(made, 750) == pytest.approx(3e-5, rel=1e-3)
    assert learning_rate(made, 1500) == 6e-5 * (1 - 1500 / 10**6)


def test_factors_are_those_of_mmcv() -> None:
    from mmcv.runner.optimizer.default_constructor import DefaultOptimizerConstructor

    network, made = mit(), schedule()
    config = {"type": "AdamW", "lr": made.lr, "betas": made.optimizer.betas, "weight_decay": made.weight_decay}
    keys = SEGFORMER["optimizer"]["custom_keys"]
    theirs = DefaultOptimizerConstructor(config, {"custom_keys": keys})(network)
    ours = ScheduledOptimizer(made, dict(network.named_parameters()), fused=False)
    expected = {group["params"][0]: (group["lr"], group["weight_decay"]) for group in theirs.param_groups}
    ours.set_learning_rates(1500)
    remaining = 1 - 1500 / made.iters
    values = {}
    for group in ours.torch_optimizer.param_groups:
        assert group["betas"] == (0.9, 0.999)
        values |= dict.fromkeys(group["params"], (group["lr"] / remaining, group["weight_decay"]))
    assert values.keys() == expected.keys()
    assert all(values[p] == pytest.approx(expected[p]) for p in values)
    assert len(set(expected.values())) == 3  # plain, without decay, and the head's
    assert ours.matches["pos_block"] == 0 < min(ours.matches["norm"], ours.matches["head"])


def test_steps_are_those_of_torchs_adamw_with_its_own_groups(tiny: Path) -> None:
    torch.manual_seed(0)
    network = build_network(network_config(load_preset(str(tiny)).student, 11), device="cpu").eval()
    model, plain = (Distiller(copy.deepcopy(network)).to_device("cpu") for _ in range(2))
    made = schedule(iters=10, warmup={"iters": 2, "ratio": 0.1}, lr=0.01)
    step = TrainStep(model, model, made, CPU)
    head = {n: p for n, p in plain.student.named_parameters() if "head" in n}
    rest = [p for n, p in plain.student.named_parameters() if n not in head]
    groups = [{"params": rest}, {"params": list(head.values())}]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.999), weight_decay=0.01)
    for number in range(4):
        batch = Batch(torch.randn(2, 3, 48, 48), torch.randint(0, 11, (2, 1, 48, 48)), [])
        step([batch], number)
        for group, factor in zip(adamw.param_groups, (1, 10), strict=True):
            warm = 1 - (1 - number / 2) * 0.9 if number < 2 else 1.0
            group["lr"] = 0.01 * factor * (1 - number / 10) * warm
        adamw.zero_grad()
        plain.total(plain(batch.images, batch.labels)).backward()
        adamw.step()
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-7) for one, other in pairs)
    assert step.lr == pytest.approx(0.01 * 0.7)


def test_layers_of_losses_have_the_name_of_the_loss(tiny: Path) -> None:
    student, teacher = (build_network(network_config(load_preset(str(tiny)).student, 11), device="cpu") for _ in "st")
    model = Distiller(student, teacher, {"fit": FitNetLoss(8, 16)}, {"fit": "head"}, {"fit": 1.0})
    keys = {"losses.fit": {"lr_mult": 5}, "backbone": {"decay_mult": 0}}
    step = TrainStep(model, model, schedule(optimizer={"type": "SGD", "custom_keys": keys}), CPU)
    assert step.scheduled.matches == {
        "losses.fit": len(list(model.losses.parameters())),
        "backbone": len(list(student.backbone.parameters())),
    }
    assert len(step.optimizer.param_groups) == 3
    assert isinstance(step.optimizer, torch.optim.SGD)


@pytest.mark.parametrize("mode", ["host", "device"])
def test_an_interrupted_run_is_resumed_bit_for_bit(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    if mode == "device":
        set_asynchronous(monkeypatch)
    preset = load_preset(str(tiny), overrides=["role=distill", f"teacher.checkpoint.path={teacher(tiny, tmp_path)}",
        *ADAMW, HEAD])  # fmt: skip
    train(preset, tmp_path / "whole", "cpu", Cluster())
    with monkeypatch.context() as stopped:
        stop_in_step(stopped)
        with pytest.raises(Interrupted):
            train(preset, tmp_path / "parts", "cpu", Cluster())
    train(preset, tmp_path / "parts", "cpu", Cluster(), resume=True)
    one, other = (read_checkpoint(tmp_path / work / "distill" / "last.pth") for work in ("whole", "parts"))
    assert all(torch.equal(value, other.state[key]) for key, value in one.state.items())
    states = [saved.rest["optimizer"]["state"] for saved in (one, other)]
    assert states[0].keys() == states[1].keys()
    for key, state in states[0].items():
        assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(value, states[1][key][name]) for name, value in state.items())
        assert float(state["step"]) == 4


def teacher(tiny: Path, folder: Path) -> Path:
    """Return a file of the preset's teacher."""
    torch.manual_seed(0)
    network = build_network(network_config(load_preset(str(tiny)).teacher, 11), device="cpu")
    torch.save({"state_dict": network.state_dict(), "meta": {}}, folder / "teacher.pth")
    return folder / "teacher.pth"


@pytest.fixture(scope="module")
def begun(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Begin a run with AdamW, which has taken 2 of 4 steps."""
    work = tmp_path_factory.mktemp("begun")
    train(load_preset(str(tiny), overrides=["role=baseline", *ADAMW, HEAD]), work, "cpu", Cluster())
    for name in ("student.pth", "result.json", "iter_4.pth", "last.pth", "best.pth"):
        (work / "baseline" / name).unlink()
    return work


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (["schedule.optimizer=null"], r"schedule\.optimizer\.type: AdamW in the run, SGD now"),
        ([*ADAMW, HEAD, "schedule.optimizer.betas=[0.8, 0.9]"], r"optimizer\.betas: \[0\.9, 0\.999\] in the run"),
        ([*ADAMW], r"custom_keys\.head\.lr_mult: 10\.0 in the run, None now"),
        ([*ADAMW, HEAD, "schedule.warmup.iters=2"], r"schedule\.warmup\.iters: 3 in the run, 2 now"),
    ],
)
def test_another_optimizer_is_refused_on_resume(begun: Path, tiny: Path, changed: list[str], text: str) -> None:
    changed = [each for each in changed if each != "schedule.optimizer=null"] or ["schedule.lr=0.01"]
    with pytest.raises(RmrkdError, match=text):
        train(load_preset(str(tiny), overrides=["role=baseline", *changed]), begun, "cpu", Cluster(), resume=True)


@pytest.mark.parametrize("damage", ["exp_avg", "step", "momentum"])
def test_a_state_of_another_optimizer_is_refused(begun: Path, tiny: Path, damage: str) -> None:
    preset = load_preset(str(tiny), overrides=["role=baseline", *ADAMW, HEAD])
    model = Distiller(build_network(network_config(preset.student, 11), device="cpu"))
    step = TrainStep(model, model, preset.schedule, CPU)
    saved = read_checkpoint(begun / "baseline" / "iter_2.pth").rest
    first = saved["optimizer"]["state"][0]
    if damage == "momentum":
        saved["optimizer"]["state"][0] = {"momentum_buffer": first["exp_avg"]}
    else:
        first[damage] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"of shape|momentum_buffer for a parameter, which AdamW has not"):
        step.restore(saved)


def test_a_run_that_is_trained_further_keeps_its_warm_up() -> None:
    before, now = schedule(iters=2000), schedule(iters=8000)
    text = extend(Progress(iteration=2000, evaluated=2000), before, now)
    assert f"({6e-5 * (1 - 2000 / 8000):.3g} instead of 0)" in text
    early = extend(Progress(iteration=750, evaluated=750), before, now)
    assert f"({learning_rate(now, 750):.3g} instead of {learning_rate(before, 750):.3g})" in early
    assert learning_rate(now, 750) == pytest.approx(6e-5 * (1 - 750 / 8000) / 2, rel=1e-5)


def test_a_teacher_may_have_another_optimizer_than_its_student() -> None:
    overrides = ["teacher.schedule={lr: 0.001, optimizer: {type: AdamW}, warmup: {iters: 7}}", "role=teacher"]
    preset = load_preset("demo", overrides=overrides)
    text = to_yaml(preset)
    assert text.count("betas") == 1  # SGD has none
    assert preset.schedule_for("teacher").optimizer.type == "AdamW"
    assert preset.schedule_for("teacher").warmup.iters == 7  # type: ignore[union-attr]
    assert preset.schedule_for("distill").optimizer.type == "SGD"


def test_a_dry_run_prints_what_each_key_matches(tiny: Path) -> None:
    options = [option for text in (*ADAMW, HEAD, "schedule.warmup.iters=9") for option in ("--set", text)]
    out = rmrkd("train", "--preset", tiny, "--role", "baseline", "--dry-run", "--device", "cpu", *options).stdout
    line = next(line for line in out.splitlines() if "optimizer" in line)
    assert line == (
        "  optimizer         AdamW, learning rate 0.01, weight decay 0.0005, warm-up of 9 iterations from 1e-06 times "
        "that rate (longer than the 4 of the run); `head` (22 parameters): learning rate x10; `bn` (32 parameters): "
        "weight decay x0"
    )
