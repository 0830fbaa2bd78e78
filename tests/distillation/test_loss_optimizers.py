"""Losses that train a network of their own against the student."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rmrkd_cli.checkpoints.reader import read_checkpoint, save_torch
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import Interrupted, RmrkdError
from rmrkd_cli.losses import AdversarialLoss
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.training.learning_rate import learning_rate
from rmrkd_cli.training.nonfinite import find_nonfinite
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.run import train
from tests.helpers.cli import rmrkd
from tests.training.test_training import log_of, stop_in_step, weights

CPU = torch.device("cpu")
OWN = ["losses.rmrkd=null", "losses.mgd=null", "losses.dkd=null"]
ADVERSARIAL = "losses.adversarial={type: adversarial, weight: 0.5, objective: wgan-gp}"


def distiller(tiny: Path, *overrides: str) -> Distiller:
    preset = load_preset(str(tiny), overrides=overrides)
    built = build_distiller(preset, "distill", 11, device="cpu", log=lambda _: None, with_weights=False)
    model = built.distiller.to_device("cpu")
    model.train()
    return model


def batch_of(seed: int, images: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 11, (images, 1, 48, 48), generator=generator)
    return Batch(torch.randn(images, 3, 48, 48, generator=generator), labels, [])


def snapshot(model: Distiller) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def _adversarial(tiny: Path) -> Distiller:
    return distiller(tiny, *OWN, ADVERSARIAL)


@pytest.fixture
def adversarial(_adversarial: Distiller) -> Distiller:
    """A tiny student and a discriminator at the start of a run."""
    return copy.deepcopy(_adversarial)


def test_steps_without_discriminators_are_what_they_were(tiny: Path) -> None:
    """Against one SGD over everything that learns."""
    ours = distiller(tiny)
    plain = copy.deepcopy(ours)
    schedule = Schedule(clip_grad=1.0)
    step = TrainStep(ours, ours, schedule, CPU)
    parameters = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    sgd = torch.optim.SGD(
        parameters, lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay
    )  # fmt: skip
    for number in range(2):
        batch = batch_of(number)
        torch.manual_seed(number)
        step([batch], number)
        torch.manual_seed(number)
        sgd.param_groups[0]["lr"] = learning_rate(schedule, number)
        sgd.zero_grad()
        plain.total(plain(batch.images, batch.labels)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        sgd.step()
    assert equal(ours.state_dict(), plain.state_dict())
    saved = step.state()
    assert list(saved) == ["optimizer", "scaler"]
    assert saved["optimizer"]["param_groups"] == sgd.state_dict()["param_groups"]
    momenta = [state["momentum_buffer"] for state in saved["optimizer"]["state"].values()]
    assert all(
        torch.equal(one, sgd.state[each]["momentum_buffer"]) for one, each in zip(momenta, parameters, strict=True)
    )
    assert set(step.part_gradient_norms()) == {"backbone", "decode_head", "auxiliary_head", "losses"}


def test_each_network_is_moved_by_its_own_optimizer(adversarial: Distiller) -> None:
    plain = copy.deepcopy(adversarial)
    step = TrainStep(adversarial, adversarial, Schedule(lr=0.1), CPU)
    loss = plain.losses["adversarial"]
    own = torch.optim.Adam(loss.parameters(), lr=4e-4, betas=(0.9, 0.99))
    sgd = torch.optim.SGD(plain.student.parameters(), lr=0.1, momentum=0.9, weight_decay=step.schedule.weight_decay)
    for number in range(2):
        batch = batch_of(number)
        torch.manual_seed(number)
        losses = step([batch], number)
        torch.manual_seed(number)
        sgd.param_groups[0]["lr"] = learning_rate(step.schedule, number)
        theirs = plain(batch.images, batch.labels)
        assert losses == theirs
        assert list(losses) == ["ce", "aux_ce", "adversarial", "adversarial_discriminator"]
        student = theirs["ce"] + theirs["aux_ce"] + 0.5 * theirs["adversarial"]
        gradients = torch.autograd.grad(student, list(plain.student.parameters()), retain_graph=True)
        for parameter, gradient in zip(plain.student.parameters(), gradients, strict=True):
            parameter.grad = gradient
        own.zero_grad()
        (0.1 * theirs["adversarial_discriminator"]).backward(inputs=list(loss.parameters()))
        sgd.step()
        own.step()
    ours = adversarial.state_dict()
    for key, value in plain.state_dict().items():
        assert torch.allclose(ours[key], value, rtol=1e-4, atol=1e-6), key
    assert step.lr != 0.1
    assert [group["lr"] for group in step.loss_optimizers._optimizers["adversarial"].param_groups] == [4e-4]


def test_clipping_and_the_norm_exclude_discriminators(adversarial: Distiller) -> None:
    results = []
    for bound in (None, 1e-3):
        model = copy.deepcopy(adversarial)
        step = TrainStep(model, model, Schedule(clip_grad=bound), CPU)
        torch.manual_seed(0)
        step.backward([batch_of(0)], 0)
        norm = step.clip_gradients()
        results.append((norm, step.discriminator_grad_norm, [each.grad for each in model.losses.parameters()]))
        parts = step.part_gradient_norms()
        assert parts.pop("discriminators") == step.discriminator_grad_norm
        assert math.hypot(*parts.values()) == pytest.approx(norm.item(), rel=1e-5)
        assert torch.stack([each.grad.norm() for each in step.parameters]).norm() <= norm
    assert results[0][:2] == results[1][:2]
    assert all(torch.equal(one, other) for one, other in zip(results[0][2], results[1][2], strict=True))


def test_accumulating_two_halves_gives_discriminators_the_gradient_of_the_whole_batch(adversarial: Distiller) -> None:
    whole = batch_of(0, 4)
    halves = [Batch(whole.images[part], whole.labels[part], []) for part in (slice(0, 2), slice(2, 4))]
    adversarial.losses["adversarial"].objective = "hinge"  # whose draws are none
    adversarial.eval()
    gradients = []
    for batches in ([whole], halves):
        TrainStep(adversarial, adversarial, Schedule(accumulate=len(batches)), CPU).backward(batches, 0)
        gradients.append([each.grad.clone() for each in adversarial.losses.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)
    assert any(gradient.norm() > 1e-3 for gradient in gradients[0])


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_step_that_is_left_out_changes_no_discriminator(adversarial: Distiller, amp: str) -> None:
    step = TrainStep(adversarial, adversarial, Schedule(skip_nonfinite=True, amp=amp), CPU)
    before = snapshot(adversarial)
    for _ in range(2):
        step.backward([batch_of(0)], 0)
        step.clip_gradients()
        step.rollback()
    assert equal(snapshot(adversarial), before)
    assert all(parameter.grad is None for parameter in adversarial.parameters())
    assert not step.state()["own_optimizers"]["adversarial"]["state"]
    step.backward([batch_of(0)], 0)
    step.clip_gradients()
    assert step.update_weights()
    after = adversarial.state_dict()
    assert not torch.equal(
        after["losses.adversarial.discriminator.score.weight"], before["losses.adversarial.discriminator.score.weight"]
    )
    assert not torch.equal(after["student.decode_head.conv_seg.weight"], before["student.decode_head.conv_seg.weight"])


def test_a_nonfinite_gradient_of_a_discriminator_is_found(adversarial: Distiller) -> None:
    step = TrainStep(adversarial, adversarial, Schedule(), CPU)
    losses = step.backward([batch_of(0)], 0)
    adversarial.losses["adversarial"].discriminator.score.bias.grad.fill_(math.nan)
    norm = step.clip_gradients()
    assert norm.isfinite()
    nonfinite = find_nonfinite(losses, norm, step.discriminator_grad_norm)
    assert list(nonfinite) == ["gradient"]
    assert math.isnan(nonfinite["gradient"])


def other_shape(saved: dict[str, Any]) -> None:
    saved["own_optimizers"]["adversarial"]["state"][0]["exp_avg"] = torch.zeros(3)


def no_second_moment(saved: dict[str, Any]) -> None:
    del saved["own_optimizers"]["adversarial"]["state"][4]["exp_avg_sq"]


def not_every_parameter(saved: dict[str, Any]) -> None:
    del saved["own_optimizers"]["adversarial"]["state"][4]


def another_loss(saved: dict[str, Any]) -> None:
    saved["own_optimizers"]["other"] = saved["own_optimizers"].pop("adversarial")


def none_at_all(saved: dict[str, Any]) -> None:
    del saved["own_optimizers"]


def no_mapping(saved: dict[str, Any]) -> None:
    saved["own_optimizers"] = 3


def test_what_does_not_fit_a_discriminator_is_refused(adversarial: Distiller) -> None:
    step = TrainStep(adversarial, adversarial, Schedule(), CPU)
    step([batch_of(0)], 0)
    saved = step.state()
    for damage in (other_shape, no_second_moment, not_every_parameter, another_loss, none_at_all, no_mapping):
        broken = copy.deepcopy(saved)
        damage(broken)
        with pytest.raises((ValueError, TypeError)):
            TrainStep(adversarial, adversarial, Schedule(), CPU).restore(broken)
    changed = copy.deepcopy(saved)
    changed["own_optimizers"]["adversarial"]["param_groups"][0]["lr"] = 9.0  # settings are the preset's
    again = TrainStep(adversarial, adversarial, Schedule(), CPU)
    again.restore(changed)
    assert str(again.state()) == str(saved)


def test_a_loss_cannot_have_the_name_of_anothers_part() -> None:
    losses = {"a": AdversarialLoss(4), "a_discriminator": AdversarialLoss(4)}
    with pytest.raises(RmrkdError, match="`a_discriminator` is already the name of a part of loss `a`"):
        Distiller(torch.nn.Identity(), torch.nn.Identity(), losses)


@pytest.mark.parametrize(("old", "new"), [("own_weights", "extra_weights"), ("own_optimizer", "make_optimizer")])
def test_a_custom_loss_with_an_old_attribute_is_rejected(old: str, new: str) -> None:
    loss = torch.nn.Identity()
    setattr(loss, old, {})
    with pytest.raises(RmrkdError, match=f"loss `mine` has `{old}`, which is now `{new}`"):
        Distiller(torch.nn.Identity(), torch.nn.Identity(), {"mine": loss})
    setattr(loss, new, {})  # works with both versions
    segmentors = [torch.nn.ModuleDict({"extract_feat": torch.nn.Identity(), "decode_head": torch.nn.Identity()})] * 2
    Distiller(*segmentors, {"mine": loss})


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_a_network_that_is_no_segmentor_is_rejected_at_once(which: str, adversarial: Distiller) -> None:
    networks = {"student": adversarial.student, "teacher": adversarial.teacher, which: torch.nn.Linear(1, 1)}
    with pytest.raises(
        RmrkdError, match=f"the {which} is a `Linear` without `extract_feat` and `decode_head`"
    ) as caught:
        Distiller(**networks)
    assert "call the losses" in caught.value.hint


def test_a_rehearsal_names_both_losses(tiny: Path) -> None:
    options = [part for override in (*OWN, ADVERSARIAL) for part in ("--set", override)]
    outcome = rmrkd("train", "--preset", tiny, "--role", "distill", "--dry-run", "--device", "cpu", *options)
    assert outcome.exit_code == 0
    losses = next(line.split() for line in outcome.stdout.splitlines() if line.split()[0] == "losses")
    assert losses[1::2] == ["ce", "aux_ce", "adversarial", "adversarial_discriminator"]


Run = Callable[..., list[dict]]


@pytest.fixture(scope="module")
def distil(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Distils four steps against a discriminator, from one teacher."""
    folder = tmp_path_factory.mktemp("teacher")
    train(load_preset(str(tiny), overrides=["role=teacher", "schedule.iters=1"]), folder, "cpu", Cluster())
    taught = f"teacher.checkpoint={{path: {folder}/teacher/student.pth}}"
    preset = load_preset(str(tiny), overrides=[*OWN, ADVERSARIAL, "role=distill", taught])
    return lambda work_dir, **options: train(preset, work_dir, "cpu", Cluster(), **options)


@pytest.fixture(scope="module")
def reference(distil: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work_dir = tmp_path_factory.mktemp("reference")
    distil(work_dir)
    return work_dir / "distill"


def test_an_interrupted_run_ends_exactly_as_an_uninterrupted_one(
    distil: Run, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in_step(monkeypatch)
    with pytest.raises(Interrupted):
        distil(tmp_path)
    monkeypatch.undo()
    last = tmp_path / "distill" / "last.pth"
    saved = torch.load(last, weights_only=True)
    state = saved["own_optimizers"]["adversarial"]["state"][0]
    original, state["exp_avg"] = state["exp_avg"], state["exp_avg"][:1]
    for path in last.parent.glob("*.pth"):
        save_torch(saved, path)
    with pytest.raises(RmrkdError, match=r"cannot resume from .* its optimizer state does not match: .*adversarial"):
        distil(tmp_path, resume=True)
    state["exp_avg"] = original
    for path in last.parent.glob("*.pth"):
        save_torch(saved, path)
    distil(tmp_path, resume=True)
    ours, theirs = (read_checkpoint(folder / "last.pth") for folder in (tmp_path / "distill", reference))
    assert equal(ours.state, theirs.state)
    assert str(ours.rest["own_optimizers"]) == str(theirs.rest["own_optimizers"])
    for one, other in zip(moments(ours.rest), moments(theirs.rest), strict=True):
        assert torch.equal(one, other)
    assert equal(weights(tmp_path / "distill" / "student.pth"), weights(reference / "student.pth"))
    assert log_of(tmp_path / "distill" / "log.jsonl") == log_of(reference / "log.jsonl")


def moments(rest: dict[str, Any]) -> list[Tensor]:
    return [value for state in rest["own_optimizers"]["adversarial"]["state"].values() for value in state.values()]


def test_the_log_and_tensorboard_show_the_loss_of_the_discriminator(reference: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = [line for line in log_of(reference / "log.jsonl") if "losses" in line]
    for line in steps:
        losses, weighted = line["losses"], line["weighted"]
        assert list(losses) == ["ce", "aux_ce", "adversarial", "adversarial_discriminator"]
        assert weighted["adversarial_discriminator"] == pytest.approx(0.1 * losses["adversarial_discriminator"])
        assert line["total"] == pytest.approx(sum(weighted.values()))
    assert len(steps) == 4
    scalars = EventAccumulator(str(reference / "tensorboard"), {"scalars": 0}).Reload().Tags()["scalars"]
    name = "adversarial_discriminator"
    assert {f"loss/{name}", f"weighted/{name}", "gradient_norm/discriminators"} <= set(scalars)


def test_the_student_knows_nothing_of_it(reference: Path, tmp_path: Path) -> None:
    student = weights(reference / "student.pth")
    assert {key.split(".")[0] for key in student} == {"backbone", "decode_head", "auxiliary_head"}
    taken = tmp_path / "taken.pth"
    assert rmrkd("transfer", reference / "last.pth", taken).exit_code == 0
    assert equal(weights(taken), student)
    printed = [
        rmrkd("eval", reference / name, "--device", "cpu", "--json", "-") for name in ("last.pth", "student.pth")
    ]
    assert [outcome.exit_code for outcome in printed] == [0, 0]


def test_a_discriminators_loss_that_is_not_finite_stops_the_run(
    distil: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = Distiller._teacher_maps
    monkeypatch.setattr(
        Distiller,
        "_teacher_maps",
        lambda *arguments: {key: value * math.nan for key, value in maps(*arguments).items()},
    )
    with pytest.raises(RmrkdError, match=r"^loss `adversarial_discriminator` is nan at iteration 1"):
        distil(tmp_path)
