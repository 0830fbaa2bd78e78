"""The schema of each loss, derived from its class, against a table of all options, defaults and bounds."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import LOSSES
from rmrkd_cli.presets import loss_schema
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.loss_schema import CustomLossSpec, LossSpec, loss_model, loss_types

# Class and parameters of every constructor, in the order of positional arguments.
PARAMETERS = {
    "adversarial": ("AdversarialLoss", "num_classes objective discriminator_weight discriminator_lr"),
    "af_dcd": (
        "AfDCDLoss",
        "student_channels teacher_channels mask_ratio mask feature_weight contrast_weight tau groups pool",
    ),
    "at": ("ATLoss", "student_channels teacher_channels mode"),
    "attnfd": ("AttnFDLoss", "student_channels teacher_channels teacher_attention train_channel_gate"),
    "bpkd": ("BPKDLoss", "num_classes tau edge_width edge_weight body_weight edge_softmax body resize"),
    "cirkd": ("CIRKDLoss", "student_channels teacher_channels tau pool"),
    "cirkd_channel": ("CIRKDChannelLoss",
        "student_channels teacher_channels map_size tau batch_channel_weight memory_channel_weight "
        "channel_mse_weight channel_queue channel_samples channels_pushed"),
    "cirkd_memory": ("CIRKDMemoryLoss",
        "student_channels teacher_channels num_classes tau pixel_queue region_queue pixels_pushed "
        "pixel_samples region_samples pixel_weight region_weight enqueue"),
    "cirkdv2": ("CIRKDv2Loss",
        "student_channels teacher_channels num_classes map_size tau fitnet_weight batch_pixel_weight "
        "memory_pixel_weight memory_region_weight batch_channel_weight memory_channel_weight channel_mse_weight "
        "pixel_queue region_queue channel_queue enqueue"),
    "csd": ("CSDLoss", "num_classes tau"),
    "cwd": ("CWDLoss", "student_channels teacher_channels on_logits tau align divide_by"),
    "dist": ("DISTLoss", "num_classes tau beta gamma intra_over"),
    "dkd": ("DKDLoss", "num_classes tau target_weight non_target_weight"),
    "fitnet": ("FitNetLoss", "student_channels teacher_channels"),
    "gkd": ("GKDLoss", "student_channels teacher_channels pool"),
    "idd": ("IDDLoss", "student_channels teacher_channels num_classes label_resize present_only"),
    "ifvd": ("IFVDLoss", "student_channels teacher_channels num_classes label_resize align"),
    "kd": ("KDLoss", "num_classes tau reduction"),
    "lskd": ("LSKDLoss", "num_classes tau standardize"),
    "mgd": ("MGDLoss", "student_channels teacher_channels mask_ratio"),
    "pkd": ("PKDLoss", "student_channels teacher_channels"),
    "psd": ("PSDLoss", "student_channels teacher_channels"),
    "rmrkd": ("RMRKDLoss",
        "student_channels teacher_channels num_classes tau label_resize softmax_over ignore_index"),
    "skd": ("SKDLoss", "student_channels teacher_channels nodes detach_norm"),
}  # fmt: skip
FURTHER_DEFAULTS = {"on_logits": True, "ignore_index": 255}  # parameters that presets do not set

ONE_MAP, LOGITS_MAP, MAPS = "one map", "logits or aux", "2 to 7 maps"
POSITIVE, NON_NEGATIVE, FRACTION, COUNT = (1e-9, 1e36), (0.0, 1e36), (0.0, 1.0), (1, 65_536)
RESIZE = ["bilinear", "nearest"]

# Type -> kind and default of `stage`, `weight` on the data set `demo`, and options: default, and words, bounds or bool.
OPTIONS: dict[str, tuple[str, Any, Any, dict[str, tuple[Any, Any]]]] = {
    "adversarial": (LOGITS_MAP, "logits", "auto", {
        "objective": ("hinge", ["hinge", "wgan-gp"]), "discriminator_weight": (0.1, NON_NEGATIVE),
        "discriminator_lr": (4e-4, POSITIVE)}),
    "af_dcd": (ONE_MAP, 4, "auto", {
        "mask_ratio": (0.75, FRACTION), "mask": ("random", ["random", "centre"]),
        "feature_weight": (2e-6, NON_NEGATIVE), "contrast_weight": (0.005, NON_NEGATIVE),
        "tau": (0.07, POSITIVE), "groups": (16, COUNT), "pool": (4, COUNT)}),
    "at": (ONE_MAP, "head", "auto", {"mode": ("code", ["code", "paper"])}),
    "attnfd": (ONE_MAP, 4, "auto", {
        "teacher_attention": ("random", ["random", "plain"]), "train_channel_gate": (False, bool)}),
    "bpkd": (LOGITS_MAP, "logits", "auto", {
        "tau": (4.0, POSITIVE), "edge_width": (1, COUNT), "edge_weight": (1.0, NON_NEGATIVE),
        "body_weight": (1.0, NON_NEGATIVE), "edge_softmax": ("positions", ["positions", "classes"]),
        "body": ("rest", ["rest", "inner"]), "resize": ("labels", ["labels", "logits"])}),
    "cirkd": (ONE_MAP, "head", "auto", {"tau": (0.1, POSITIVE), "pool": (1, (1, 2))}),
    "cirkd_channel": (ONE_MAP, "head", "auto", {
        "tau": (0.1, POSITIVE), "batch_channel_weight": (1.0, NON_NEGATIVE),
        "memory_channel_weight": (0.1, NON_NEGATIVE), "channel_mse_weight": (100.0, NON_NEGATIVE),
        "channel_queue": (10_000, COUNT), "channel_samples": (2_048, COUNT), "channels_pushed": (256, COUNT)}),
    "cirkd_memory": (ONE_MAP, "head", "auto", {
        "tau": (0.1, POSITIVE), "pixel_queue": (20_000, COUNT), "region_queue": (2_000, COUNT),
        "pixels_pushed": (16, COUNT), "pixel_samples": (4_096, COUNT), "region_samples": (1_024, COUNT),
        "pixel_weight": (1.0, NON_NEGATIVE), "region_weight": (1.0, NON_NEGATIVE),
        "enqueue": ("class", ["class", "released"])}),
    "cirkdv2": (ONE_MAP, "head", "auto", {
        "tau": (0.1, POSITIVE), "fitnet_weight": (1.0, NON_NEGATIVE), "batch_pixel_weight": (1.0, NON_NEGATIVE),
        "memory_pixel_weight": (0.1, NON_NEGATIVE), "memory_region_weight": (0.1, NON_NEGATIVE),
        "batch_channel_weight": (1.0, NON_NEGATIVE), "memory_channel_weight": (0.1, NON_NEGATIVE),
        "channel_mse_weight": (100.0, NON_NEGATIVE), "pixel_queue": (20_000, COUNT), "region_queue": (2_000, COUNT),
        "channel_queue": (10_000, COUNT), "enqueue": ("class", ["class", "released"])}),
    "csd": (LOGITS_MAP, "logits", 10.0, {"tau": (4.0, POSITIVE)}),
    "cwd": (ONE_MAP, "logits", "auto", {
        "tau": (4.0, POSITIVE), "align": ("conv", ["conv", "conv-always", "conv-bn-relu"]),
        "divide_by": ("teacher", ["teacher", "student"])}),
    "dist": (LOGITS_MAP, "logits", "auto", {
        "tau": (1.0, POSITIVE), "beta": (1.0, NON_NEGATIVE), "gamma": (1.0, NON_NEGATIVE),
        "intra_over": ("positions", ["positions", "images"])}),
    "dkd": (LOGITS_MAP, "logits", "auto", {
        "tau": (4.0, POSITIVE), "target_weight": (4.0, NON_NEGATIVE), "non_target_weight": (4.0, NON_NEGATIVE)}),
    "fitnet": (ONE_MAP, "head", "auto", {}),
    "gkd": (ONE_MAP, 4, 1.0, {"pool": (1, COUNT)}),
    "idd": (ONE_MAP, 4, "auto", {"label_resize": ("bilinear", RESIZE), "present_only": (False, bool)}),
    "ifvd": (ONE_MAP, "head", "auto", {"label_resize": ("nearest", RESIZE), "align": (False, bool)}),
    "kd": (LOGITS_MAP, "logits", "auto", {
        "tau": (1.0, POSITIVE), "reduction": ("pixels", ["pixels", "elements", "skd", "mmrazor", "mmrazor-mean"])}),
    "lskd": (LOGITS_MAP, "logits", "auto", {"tau": (2.0, POSITIVE), "standardize": ("classes", ["classes", "width"])}),
    "mgd": (ONE_MAP, 4, "auto", {"mask_ratio": (0.75, FRACTION)}),
    "pkd": (ONE_MAP, "head", "auto", {}),
    "psd": (MAPS, ["aux", "head", "logits"], "auto", {}),
    "rmrkd": (ONE_MAP, 4, "auto", {
        "tau": (0.1, POSITIVE), "label_resize": ("bilinear", RESIZE), "softmax_over": ("rows", ["rows", "positions"])}),
    "skd": (ONE_MAP, "head", "auto", {"nodes": ("2x2", ["2x2", "half"]), "detach_norm": (False, bool)}),
}  # fmt: skip
ALLOWED_STAGES: dict[str, list[Any]] = {
    ONE_MAP: [1, 2, 3, 4, "head", "logits", "aux"],
    LOGITS_MAP: ["logits", "aux"],
    MAPS: [[1, "aux"], [1, 2, 3, 4, "head", "logits", "aux"]],
}
STAGES = [*ALLOWED_STAGES[ONE_MAP], *ALLOWED_STAGES[MAPS], 0, 5, "stage4", None, True, [], [1], [1, 1], [1, 5]]
each_type = pytest.mark.parametrize("loss_type", OPTIONS)


def accepts(loss_type: str, **keys: Any) -> bool:
    try:
        loss_model(loss_type).model_validate({"type": loss_type, **keys})
    except ValueError:
        return False
    return True


def just_outside(low: float, high: float) -> tuple[float, float]:
    return (low - 1, high + 1) if isinstance(low, int) else (low - 1e-10, high * 1.001)


def test_every_loss_is_in_the_table() -> None:
    assert loss_types() == sorted(LOSSES) == list(OPTIONS) == list(PARAMETERS)


@each_type
def test_a_constructor_keeps_its_positions_and_defaults(loss_type: str) -> None:
    cls = LOSSES[loss_type]
    parameters = inspect.signature(cls).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    further = {each.name: FURTHER_DEFAULTS[each.name] for each in parameters if each.name in FURTHER_DEFAULTS}
    assert (cls.__name__, " ".join(each.name for each in parameters)) == PARAMETERS[loss_type]
    assert {each.kind for each in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert defaults == {**further, **{option: default for option, (default, _) in OPTIONS[loss_type][3].items()}}


@each_type
def test_keys_and_defaults_are_those_of_the_table(loss_type: str) -> None:
    _, stage, weight, options = OPTIONS[loss_type]
    spec = load_preset("demo", overrides=[f"losses={{one: {{type: {loss_type}}}}}"]).losses["one"]
    expected = {
        "type": loss_type,
        "stage": stage,
        "weight": weight,
        **{key: default for key, (default, _) in options.items()},
    }
    dumped = spec.model_dump()
    assert (dumped, list(dumped)) == (expected, list(expected))
    assert {key: type(value) for key, value in dumped.items()} == {key: type(value) for key, value in expected.items()}


@each_type
def test_stages_and_weights_are_bounded(loss_type: str) -> None:
    kind = OPTIONS[loss_type][0]
    assert [stage for stage in STAGES if accepts(loss_type, stage=stage)] == ALLOWED_STAGES[kind]
    assert all(accepts(loss_type, weight=weight) for weight in (0, 1e36, 0.5, "auto"))
    assert not any(accepts(loss_type, weight=weight) for weight in (-1e-9, 1.1e36, float("nan"), True, "rule", None))


@pytest.mark.parametrize(("loss_type", "option"), [(kind, key) for kind, row in OPTIONS.items() for key in row[3]])
def test_an_option_accepts_what_the_table_allows(loss_type: str, option: str) -> None:
    allowed = OPTIONS[loss_type][3][option][1]
    if allowed is bool:
        good, bad = [True, False], [2, "maybe"]
    elif isinstance(allowed, list):
        good, bad = allowed, ["", allowed[0].upper(), True, 1]
    else:
        good, bad = list(allowed), [*just_outside(*allowed), "many", True, float("inf")]
    assert [value for value in good if not accepts(loss_type, **{option: value})] == []
    assert [value for value in [*bad, None, []] if accepts(loss_type, **{option: value})] == []


@each_type
def test_an_unknown_option_is_reported(loss_type: str) -> None:
    with pytest.raises(RmrkdError, match=r"losses.one.tauu: unknown key, (did you mean|known)"):
        load_preset("demo", overrides=[f"losses={{one: {{type: {loss_type}, tauu: 1}}}}"])


@each_type
def test_a_constructor_refuses_other_words(loss_type: str) -> None:
    cls = LOSSES[loss_type]
    names = PARAMETERS[loss_type][1].split()
    required = {name: 4 for name in ("student_channels", "teacher_channels", "num_classes") if name in names}
    size = {"map_size": (4, 4)} if "map_size" in names else {}
    for option, (_, allowed) in OPTIONS[loss_type][3].items():
        if isinstance(allowed, list):
            with pytest.raises(RmrkdError, match=f"{option} must be one of {', '.join(allowed)}, got `none`"):
                cls(**required, **size, **{option: "none"})


def test_a_new_file_is_a_new_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file beside the others is enough for its type, options and defaults to be known."""
    shutil.copy(Path(loss_schema.__file__).parents[1] / "losses" / "_base.py", tmp_path)
    (tmp_path / "new.py").write_text(
        "class NewLoss(DistillationLoss):\n    default_stage = 3\n"
        "    def __init__(self, student_channels: int, teacher_channels: int, scale: Fraction = 0.5,\n"
        "                 mode: Literal['a', 'b'] = 'a') -> None: ...\n"
    )
    monkeypatch.setattr(loss_schema, "_LOSSES", tmp_path)
    spec = load_preset("demo", overrides=["losses={one: {type: new, scale: 1}}"]).losses["one"]
    loss_model.cache_clear()
    assert spec.model_dump() == {"type": "new", "stage": 3, "weight": "auto", "scale": 1.0, "mode": "a"}


def test_options_are_read_without_torch() -> None:
    code = "import sys; from rmrkd_cli.presets.loss_schema import *; [loss_model(t) for t in loss_types()]"
    subprocess.run(
        [sys.executable, "-c", f"{code}; assert not {{'torch', 'rmrkd_cli.losses'}} & set(sys.modules)"], check=True
    )


def test_a_custom_loss_takes_any_options() -> None:
    preset = load_preset("demo", overrides=["losses={own: {type: a/b.py:C, stage: [1, aux], options: {x: [1]}}}"])
    spec: LossSpec = preset.losses["own"]
    assert isinstance(spec, CustomLossSpec)
    assert spec.model_dump() == {"type": "a/b.py:C", "stage": [1, "aux"], "weight": "auto", "options": {"x": [1]}}
