"""Automatic loss weights: their values, that the model does not change, and that dry run and training agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.errors import RunError
from rmrkd_cli.losses.kd import KDLoss
from rmrkd_cli.networks.adapter import Adapter, MapName, set_adapter
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import Preset, Schedule
from rmrkd_cli.training.loss_weights import compute_auto_weights
from rmrkd_cli.training.run import train
from tests.helpers.cli import rmrkd

DIST_CTX = DistContext(0, 1, torch.device("cpu"))
CLASSES = 11


class Scaled(nn.Module):
    """Cross-entropy of the logits times a factor, so that the gradient is known."""

    def __init__(self, head: nn.Module, factor: float) -> None:
        super().__init__()
        self._head, self.factor = (head,), factor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        return self.factor * self._head[0].losses(student, labels)["loss_ce"]


def build(tiny: Path, *overrides: str) -> tuple[Preset, Distiller]:
    preset = load_preset(str(tiny), overrides=overrides)
    built = build_distiller(preset, "distill", CLASSES, device="cpu", log=lambda _: None, with_weights=False)
    return preset, built.distiller.to_device("cpu")


def batches(count: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(2, 3, 48, 48, generator=generator) for _ in range(count)]
    labels = [torch.randint(0, CLASSES, (2, 1, 48, 48), generator=generator) for _ in range(count)]
    return [Batch(image, label, []) for image, label in zip(images, labels, strict=True)]


def test_a_multiple_of_cross_entropy_gets_the_inverse_weight(tiny: Path) -> None:
    preset, model = build(tiny)
    model.losses["quarter"] = Scaled(model.student.decode_head, 0.25)
    model.stages["quarter"] = "logits"
    assert compute_auto_weights(model, batches(), ["quarter"], preset.schedule, 0, DIST_CTX) == {"quarter": 4.0}


def test_gradients_become_equal_at_the_deepest_stage_a_loss_reaches(tiny: Path) -> None:
    """Without dropout, so that these forward passes equal those of the rule."""
    places = {"rmrkd": 4, "early": 3, "mgd": 4, "dkd": 4}
    preset, model = build(
        tiny, "losses.early={type: idd, stage: 3}", *(f"losses.{name}.weight=auto" for name in places)
    )
    for head in (model.student.decode_head, model.student.auxiliary_head):
        head.dropout = None
    model.losses["mgd"].mask_ratio = 0.0
    images = batches(3)
    weights = compute_auto_weights(model, images, list(places), preset.schedule, 0, DIST_CTX)
    model.train()
    for name, stage in places.items():
        norms = torch.zeros(2, dtype=torch.float64)
        for batch in images:
            named, maps = model.forward_with_features(batch.images, batch.labels)
            plain = named["ce"] + named["aux_ce"]
            grads = [torch.autograd.grad(value, maps[stage], retain_graph=True)[0] for value in (named[name], plain)]
            norms += torch.stack([grad.double().norm() for grad in grads])
        assert weights[name] == float(f"{norms[1] / norms[0]:.1e}")


class OnlyLogits(Adapter):
    num_classes = 11

    def maps(self, network: nn.Module, images: Tensor, *, auxiliary: bool = False) -> dict[MapName, Tensor]:
        return {"logits": network(images)}

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        return network(images)


def test_a_network_without_stages_has_its_gradients_at_the_logits() -> None:
    torch.manual_seed(0)
    networks = [set_adapter(nn.Conv2d(3, 11, 3, 8, 1), OnlyLogits()) for _ in range(2)]
    model, images = Distiller(*networks, {"kd": KDLoss(CLASSES)}, {"kd": "logits"}), batches(2)
    weight = compute_auto_weights(model, images, ["kd"], Schedule(), 0, DIST_CTX)["kd"]
    norms = torch.zeros(2, dtype=torch.float64)
    for batch in images:
        named, maps = model.forward_with_features(batch.images, batch.labels)
        grads = [torch.autograd.grad(named[key], maps["logits"], retain_graph=True)[0] for key in ("kd", "ce")]
        norms += torch.stack([grad.double().norm() for grad in grads])
    assert weight == float(f"{norms[1] / norms[0]:.1e}")


def test_the_model_does_not_change(tiny: Path) -> None:
    preset, model = build(tiny)
    model.losses["counting"] = Scaled(model.student.decode_head, 1.0)
    model.stages["counting"] = "logits"
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    compute_auto_weights(model, batches(), ["rmrkd", "counting"], preset.schedule, 0, DIST_CTX)
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("factor", [0.0, float("nan")])
def test_a_loss_without_a_gradient_is_rejected(tiny: Path, factor: float) -> None:
    preset, model = build(tiny)
    model.losses["dead"] = Scaled(model.student.decode_head, factor)
    model.stages["dead"] = "logits"
    with pytest.raises(RunError, match="cannot compute a weight for loss `dead`") as caught:
        compute_auto_weights(model, batches(1), ["dead"], preset.schedule, 0, DIST_CTX)
    assert "--set losses.dead.weight" in caught.value.hint


def without_labels(batch: Batch, count: int) -> Batch:
    """The same images, the last of them without label maps."""
    labels = batch.labels.clone()
    labels[len(labels) - count :] = 255
    return batch._replace(labels=labels, unlabelled=torch.full((count, 2), 48))


def test_batches_without_labels_do_not_count_where_the_teacher_predicts_nothing(tiny: Path) -> None:
    """Their cross-entropy has no gradient, and the loss has one: its weight would become too small."""
    preset, model = build(tiny, "losses.mgd.weight=auto")
    model.teacher_gives_logits = False  # as a foundation model
    first, second = batches()
    mixed, bare = without_labels(first, 1), without_labels(second, 2)

    def weight(*given: Batch, dist_ctx: DistContext = DIST_CTX) -> float:
        return compute_auto_weights(model, given, ["mgd"], preset.schedule, 0, dist_ctx)["mgd"]

    assert weight(mixed, bare) == weight(mixed) > 0
    assert weight(mixed, second) != weight(mixed)
    assert weight(bare, dist_ctx=OtherHasLabels(0, 2, torch.device("cpu"))) == 3.0
    with pytest.raises(RunError, match="the weight of `mgd`: the first batches have no image with labels") as caught:
        weight(bare)
    assert "--set data.labelled_share=0.5; or set the weight: --set losses.mgd.weight=1" in caught.value.hint


class OtherHasLabels(DistContext):
    """Of two workers; the other measured one batch: a norm of 2, and one of 6 of cross-entropy."""

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return tensor + torch.tensor([2.0, 6.0, 1.0], dtype=tensor.dtype)


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a teacher and a student with automatic loss weights."""
    work_dir = tmp_path_factory.mktemp("auto")
    preset = load_preset(str(tiny), method="idd", overrides=["role=teacher"])
    train(preset, work_dir, "cpu", Cluster())
    train(preset.model_copy(update={"role": "distill"}), work_dir, "cpu", Cluster())
    return work_dir


def test_a_dry_run_shows_the_weight_that_training_uses(tiny: Path, trained: Path) -> None:
    record = json.loads((trained / "distill-idd" / "result.json").read_text())
    weight = record["training"]["weights"]["idd"]
    assert weight > 0
    options = ["train", "--preset", tiny, "--method", "idd", "--role", "distill", "--dry-run", "--device", "cpu"]
    out = rmrkd(*options, "--work-dir", trained).stdout
    assert f"weight {weight:g} (by the rule of equal gradients)" in out
    assert "training computes the same weights" in out
    line = json.loads((trained / "distill-idd" / "log.jsonl").read_text().splitlines()[0])
    assert line["weighted"]["idd"] == pytest.approx(weight * line["losses"]["idd"])
    random = rmrkd(*options, "--work-dir", trained / "nowhere").stdout
    assert "(from random images and networks, by the rule of equal gradients)" in random
    assert "the file of the teacher's weights is missing" in random


def test_a_resumed_run_keeps_its_weights(tiny: Path, trained: Path, tmp_path: Path, begun: None) -> None:
    """They are in the checkpoint. Computed again, on a trained student, they would differ."""
    saved = read_checkpoint(trained / "distill-idd" / "iter_2.pth").rest["weights"]
    assert saved == json.loads((trained / "distill-idd" / "result.json").read_text())["training"]["weights"]
    record = json.loads((trained / "distill-idd" / "result.json").read_text())
    for name in ("student.pth", "result.json", "last.pth", "iter_4.pth"):
        (trained / "distill-idd" / name).unlink()
    preset = load_preset(str(tiny), method="idd", overrides=["role=distill"])
    again = train(preset, trained, "cpu", Cluster(), resume=True)[0]
    assert again["training"]["weights"] == saved
    assert again["metrics"] == record["metrics"]
