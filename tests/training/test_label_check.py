"""Which roles and methods train on images without label maps."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.methods import method_names, methods_without_labels
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.training.label_check import check_labels
from rmrkd_cli.training.network_check import check_networks

NONE, TEACHER = "data.train.labels=none", "data.train.labels=teacher"
UNLABELLED = "data.unlabelled={images: val}"
NEED_LABELS = {"bpkd", "cirkd", "cirkd-memory", "cirkdv2", "cross-similarity", "dkd-region", "idd", "ifvd", "rmrkd"}


def preset_of(tiny: Path, *overrides: str, method: str | None = None) -> Preset:
    return load_preset(str(tiny), method=method, overrides=overrides)


def refusal(preset: Preset, *roles: str) -> RmrkdError:
    with pytest.raises(RmrkdError) as caught:
        check_labels(preset, roles)
    return caught.value


@pytest.mark.parametrize("method", method_names())
def test_each_method_without_labels(tiny: Path, method: str) -> None:
    """A method is refused for the losses that read labels, and alone also if it leaves the classifier untrained."""
    for override in (NONE, UNLABELLED):
        preset = preset_of(tiny, override, method=method)
        if method in methods_without_labels(on_logits=override == NONE):
            check_labels(preset, ["distill"])
            continue
        error = refusal(preset, "distill")
        key = "data.train.labels" if override == NONE else "data.unlabelled.labels"
        if method in NEED_LABELS:
            assert f"of method `{method}` need" in error.message
            assert f"labels, and `{key}` is `none`" in error.message
            assert f"--set {key}=teacher" in error.hint
        else:
            assert "none acts on its logits" in error.message
            assert "--set losses.kd.type=kd" in error.hint
        for name in methods_without_labels(on_logits=override == NONE):
            assert f" {name}" in error.hint
    assert (method in methods_without_labels(on_logits=False)) == (method not in NEED_LABELS)


def test_methods_that_train_the_whole_student_without_labels() -> None:
    every, on_logits = (methods_without_labels(on_logits=value) for value in (False, True))
    assert {"kd", "cwd", "dist", "skd"} <= set(on_logits)
    assert set(every) - set(on_logits) == {"attnfd", "gkd", "mgd", "pkd"}  # they act on features alone


def test_the_losses_that_need_labels_are_named(tiny: Path) -> None:
    error = refusal(preset_of(tiny, NONE), "distill")
    assert error.message.startswith("`rmrkd` and `dkd` of method `rmrkd` need labels")
    assert refusal(preset_of(tiny, NONE, "losses.dkd=null"), "distill").message.startswith(
        "`rmrkd` of method `rmrkd` needs labels"
    )


@pytest.mark.parametrize("labels", [TEACHER, "data.unlabelled={images: val, labels: teacher}"])
def test_labels_of_the_teacher_serve_every_method(tiny: Path, labels: str) -> None:
    for method in method_names():
        check_labels(preset_of(tiny, labels, method=method), ["distill"])


@pytest.mark.parametrize("labels", [NONE, TEACHER])
@pytest.mark.parametrize("roles", [["baseline"], ["teacher", "baseline", "distill"], ["teacher"]])
def test_roles_without_a_teacher_have_nothing_to_learn_from(tiny: Path, labels: str, roles: list[str]) -> None:
    error = refusal(preset_of(tiny, labels, method="kd"), *roles)
    role = "baseline" if "baseline" in roles else "teacher"
    assert error.message.endswith(f"the role `{role}` has no label maps to learn from")
    assert "--role distill" in error.hint


def test_a_baseline_beside_unlabelled_images_uses_the_labelled_ones(tiny: Path) -> None:
    check_labels(preset_of(tiny, UNLABELLED, method="kd"), ["teacher", "baseline", "distill"])
    check_labels(preset_of(tiny, UNLABELLED), ["baseline"])


def test_with_label_maps_nothing_is_refused(tiny: Path) -> None:
    for method in method_names():
        check_labels(preset_of(tiny, method=method), ["teacher", "baseline", "distill"])


LOSSES = """
import torch
from torch import nn

class Plain(nn.Module):
    def forward(self, student, teacher, labels):
        return (student - teacher).square().mean() + 0 * torch.rand(()) * student.mean()

class Masked(nn.Module):
    def forward(self, student, teacher, labels):
        return (student.mean() - teacher.mean()).square() * (labels != 255).float().mean()

class Declared(Masked):
    needs_labels = False
"""


@pytest.mark.parametrize("name", ["Plain", "Masked", "Declared"])
def test_a_custom_loss_is_tried_with_labels_and_without(name: str, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(LOSSES)
    overrides = (NONE, f"losses.{name}.stage=logits", f"losses.{name}.weight=1")
    preset = preset_of(tiny, *overrides, method=f"{file}:{name}")
    check_labels(preset, ["distill"])
    if name != "Masked":
        check_networks(preset, ["distill"], 11, [str(file)])
        return
    with pytest.raises(RmrkdError, match=r"`Masked` of method `Masked` needs labels, and `data\.train\.labels`"):
        check_networks(preset, ["distill"], 11, [str(file)])
    taught = preset_of(tiny, TEACHER, *overrides[1:], method=f"{file}:{name}")
    check_networks(taught, ["distill"], 11, [str(file)])
