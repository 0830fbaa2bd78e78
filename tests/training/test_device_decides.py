"""Updates that the device applies or skips by itself, as on a GPU; here the device is the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import RunError
from rmrkd_cli.losses import AdversarialLoss, CIRKDMemoryLoss
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.run import train
from tests.training.test_survival import poison, set_asynchronous

CPU = torch.device("cpu")
RARE = tuple(f"schedule.{key}=6" for key in ("iters", "eval_interval", "checkpoint_interval", "log_interval"))


@pytest.fixture(autouse=True)
def _rare_log_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let short runs log as rarely as their `log_interval` says; reading a loss would reveal an incident early."""
    monkeypatch.setattr("rmrkd_cli.training.budget._MIN_LOG_LINES", 1)


def run(tiny: Path, work_dir: Path, *overrides: str, **options: bool) -> Path:
    preset = load_preset(str(tiny), overrides=["role=baseline", "schedule.crop=[32, 32]", *RARE, *overrides])
    train(preset, work_dir, "cpu", Cluster(), **options)
    return work_dir / "baseline"


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_run_without_incidents_is_the_same(tiny: Path, tmp_path: Path, amp: str) -> None:
    folders = []
    for mode in ("host", "device"):
        with pytest.MonkeyPatch.context() as patched:
            if mode == "device":
                set_asynchronous(patched)
            folders.append(run(tiny, tmp_path / mode, "schedule.log_interval=1", f"schedule.amp={amp}"))
    host, device = (log_of(folder) for folder in folders)
    assert [line["iter"] for line in host] == [line["iter"] for line in device]
    for one, other in zip(host[:-1], device[:-1], strict=True):
        assert one["losses"] == pytest.approx(other["losses"], rel=1e-4)
    ours, theirs = (read_checkpoint(folder / "student.pth").state for folder in folders)
    for key, value in ours.items():
        assert torch.allclose(value.float(), theirs[key].float(), rtol=1e-3, atol=1e-4), key


def test_the_error_of_a_step_comes_one_step_later_and_names_its_iteration(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_asynchronous(monkeypatch)
    poison(monkeypatch, 1)
    updates: list[int] = []
    update = TrainStep.update_unless
    monkeypatch.setattr(TrainStep, "update_unless", lambda *args: (updates.append(1), update(*args))[1])
    with pytest.raises(RunError, match=r"loss `ce` is nan.* at iteration 2, on"):
        run(tiny, tmp_path)
    assert len(updates) == 2  # of the third step, whose gradients exist, nothing is applied
    replay = torch.load(tmp_path / "baseline" / "nonfinite" / "iter_2-rank0.pth", weights_only=True)
    assert "those at the time of writing" in replay["note"]
    assert replay["images"][0].isnan().sum() == 1
    weights = [value for key, value in replay["state_dict"].items() if key.endswith("conv.weight")]
    assert all(value.isfinite().all() for value in weights)


@pytest.mark.parametrize("amp", ["off", "fp16"])
@pytest.mark.parametrize("bad", [(0,), (1, 2), (5,)])
def test_skipped_steps_are_the_same_ones_with_the_same_result(
    tiny: Path, tmp_path: Path, bad: tuple[int, ...], amp: str
) -> None:
    folders = []
    for mode in ("host", "device"):
        with pytest.MonkeyPatch.context() as patched:
            poison(patched, *bad)
            if mode == "device":
                set_asynchronous(patched)
            folders.append(run(tiny, tmp_path / mode, "schedule.skip_nonfinite=true", f"schedule.amp={amp}"))
    for folder in folders:
        assert [line["iter"] for line in log_of(folder) if "skipped" in line] == [step + 1 for step in bad]
        training = json.loads((folder / "result.json").read_text())["training"]
        assert training["skipped_steps"] == len(bad)
        assert (training["amp"], training["tf32"], training["deterministic"]) == (amp, None, False)
    host, device = (read_checkpoint(folder / "last.pth") for folder in folders)
    assert host.rest["skipped_in_row"] == device.rest["skipped_in_row"]
    for key, value in host.state.items():
        assert value.isfinite().all()
        assert torch.allclose(value.float(), device.state[key].float(), rtol=1e-3, atol=1e-4), key


def test_a_resumed_run_is_the_same_bit_for_bit(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_asynchronous(monkeypatch)
    poison(monkeypatch, 1)
    overrides = ("schedule.skip_nonfinite=true", "schedule.checkpoint_interval=3", "schedule.eval_interval=3")
    whole = run(tiny, tmp_path / "whole", *overrides)
    half = tmp_path / "half" / "baseline"
    run(tiny, tmp_path / "half", *overrides)
    for name in ("iter_6.pth", "last.pth", "best.pth", "student.pth", "result.json"):
        (half / name).unlink()
    run(tiny, tmp_path / "half", *overrides, resume=True)
    one, other = (read_checkpoint(folder / "last.pth") for folder in (whole, half))
    assert all(torch.equal(value, other.state[key]) for key, value in one.state.items())
    assert [line["iter"] for line in log_of(whole)] == [line["iter"] for line in log_of(half)]


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_step_that_the_device_skips_changes_no_weight_state_or_discriminator(
    tiny: Path, amp: str, optimizer: str
) -> None:
    torch.manual_seed(0)
    student, teacher = (build_network(network_config(load_preset(str(tiny)).student, 11), device="cpu") for _ in "st")
    loss = AdversarialLoss(11)
    make = loss.make_optimizer
    loss.make_optimizer = lambda: _fused(make())  # type: ignore[method-assign]
    model = Distiller(student, teacher, {"adversarial": loss}, {"adversarial": "logits"}, {"adversarial": 0.1})
    model.to_device("cpu").train()
    schedule = Schedule(skip_nonfinite=True, amp=amp, lr=0.01, optimizer={"type": optimizer})  # type: ignore[arg-type]
    step = TrainStep(model, model, schedule, CPU, asynchronous=True)
    batch = Batch(torch.randn(2, 3, 48, 48), torch.randint(0, 11, (2, 1, 48, 48)), [])
    for poisoned in (True, False, True):
        images = batch.images.clone()
        images[0, 0, 0, 0] = float("nan") if poisoned else 0.0
        before = {key: value.clone() for key, value in model.state_dict().items()}
        losses = step.backward([batch._replace(images=images)], 0)
        step.clip_gradients()
        step.update_unless(torch.tensor(float(poisoned)))
        assert losses["ce"].isfinite() != poisoned
        changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
        assert bool(changed) != poisoned, changed
    assert {float(state.get("step", 1)) for state in step.optimizer.state.values()} == {1.0}
    states = [*step.optimizer.state.values(), *(s for each in step.loss_optimizers for s in each.state.values())]
    assert all(value.isfinite().all() for state in states for value in state.values())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_skipped_step_restores_the_memory_but_not_the_count_of_passes(tiny: Path, asynchronous: bool) -> None:
    """The host reads the count, so on a GPU it would wait for the outcome; a CPU does the same, for equal draws."""
    torch.manual_seed(0)
    student, teacher = (build_network(network_config(load_preset(str(tiny)).student, 11), device="cpu") for _ in "st")
    loss = CIRKDMemoryLoss(
        8,
        8,
        11,
        pixel_queue=8,
        region_queue=4,
        pixels_pushed=2,
        pixel_samples=4,
        region_samples=2,
    )
    model = Distiller(student, teacher, {"memory": loss}, {"memory": "head"}, {"memory": 0.1})
    model.to_device("cpu").train()
    step = TrainStep(model, model, Schedule(skip_nonfinite=True), CPU, asynchronous=asynchronous)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    step.backward([Batch(torch.randn(2, 3, 48, 48), torch.randint(0, 11, (2, 1, 48, 48)), [])], 0)
    pushed = [key for key, value in loss.state_dict().items() if not torch.equal(value, before[f"losses.memory.{key}"])]
    assert any(key.endswith("vectors") for key in pushed)
    step.clip_gradients()
    if asynchronous:
        step.update_unless(torch.tensor(1.0))
    else:
        step.rollback()
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert [key.rpartition(".")[2] for key in changed] == ["passes"]


def test_a_first_step_that_overflows_leaves_no_undefined_momentum(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As fp16's first steps usually do; `TrainStep.__call__` is what a dry run and benchmarks take."""
    model = Distiller(build_network(network_config(load_preset(str(tiny)).student, 11), device="cpu")).to_device("cpu")
    step = TrainStep(model, model, Schedule(amp="fp16"), CPU, asynchronous=True)
    total = Distiller.total
    monkeypatch.setattr(Distiller, "total", lambda self, named: total(self, named) * 1e36)
    step([Batch(torch.randn(2, 3, 48, 48), torch.randint(0, 11, (2, 1, 48, 48)), [])], 0)
    momentum = [state["momentum_buffer"] for state in step.optimizer.state.values()]
    assert momentum
    assert not any(value.any() for value in momentum)


def _fused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    group = optimizer.param_groups[0]
    return torch.optim.Adam(group["params"], lr=group["lr"], betas=group["betas"], fused=True)
