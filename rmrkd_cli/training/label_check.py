"""Check that a preset can train on images without label maps: its roles, and its losses."""

from __future__ import annotations

from collections.abc import Sequence

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.fields import AUTO
from rmrkd_cli.presets.loss_schema import is_custom_loss, needs_labels
from rmrkd_cli.presets.methods import acts_on_logits, methods_on_stages, methods_without_labels
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.terminal.text import join_and

_ROLES = ("baseline", "teacher")  # which learn from label maps alone


def check_labels(preset: Preset, roles: Sequence[str]) -> None:
    """Check the roles and rmrkd's own losses of a preset; without unlabelled images there is nothing to check.

    Raises:
        RmrkdError: When a role would have nothing to learn from, a loss needs labels where there are none, no loss
            trains the student's classifier, or a teacher without logits would have to label images.
    """
    data = preset.data
    only_features = preset.teacher.gives_only_features and preset.teacher.outputs is None
    if "distill" in roles and only_features:
        _check_feature_teacher(preset)
    if data.train_labels != "files" and (role := next((role for role in _ROLES if role in roles), None)):
        raise RmrkdError(
            f"`data.train.labels` is `{data.train_labels}`: the role `{role}` has no label maps to learn from",
            "--role distill --teacher-checkpoint FILE distils from a trained teacher; or give the folder of the label "
            "maps in `data.train.labels`",
        )
    if "distill" not in roles or not has_images_without_labels(preset):
        return
    losses = preset.losses.items()
    needing = [name for name, loss in losses if not is_custom_loss(loss.type) and needs_labels(loss.type)]
    if needing:
        raise loss_needs_labels(preset, needing)
    if data.train_labels == "none" and not only_features and not any(acts_on_logits(loss) for _, loss in losses):
        places = join_and([f"`{name}` ({_place(loss.stage)})" for name, loss in losses])
        raise RmrkdError(
            f"without labels, only the losses train the student, and none acts on its logits: {places}; its classifier "
            "would stay random",
            f"add one: --set losses.kd.type=kd, or a method that has one: --method {_methods(preset)}; or "
            f"--set data.train.labels=teacher",
        )


def _check_feature_teacher(preset: Preset) -> None:
    """Raise RmrkdError where logits of a teacher that gives none are needed."""
    data, name = preset.data, preset.teacher.name
    if data.teacher_labels:
        key = "data.train.labels" if data.train_labels == "teacher" else "data.unlabelled.labels"
        raise RmrkdError(
            f"`{key}` is `teacher`, and the teacher `{name}` gives feature maps: it predicts no class",
            f"train on features alone: --set {key}=none; or take a teacher that is a segmentation network",
        )
    automatic = [key for key, loss in preset.losses.items() if loss.weight == AUTO]
    if data.train_labels == "none" and automatic:
        names = join_and([f"`{key}`" for key in automatic])
        raise RmrkdError(
            f"the weight of {names} is `auto`, which is measured against cross-entropy; without labels, the teacher "
            f"`{name}` gives none",
            "set the weight: " + " ".join(f"--set losses.{key}.weight=1" for key in automatic),
        )


def loss_needs_labels(preset: Preset, losses: Sequence[str]) -> RmrkdError:
    """Return the error for losses that need labels, which some images of the preset do not have."""
    names = join_and([f"`{name}`" for name in losses])
    key = "data.train.labels" if preset.data.train_labels == "none" else "data.unlabelled.labels"
    verb = "needs" if len(losses) == 1 else "need"
    other = f"take the teacher's prediction as the label: --set {key}=teacher"
    if preset.teacher.gives_only_features:
        other = _train_on_labels(preset)
    return RmrkdError(
        f"{names} of method `{preset.method}` {verb} labels, and `{key}` is `none`",
        f"a method that needs none: --method {_methods(preset)}; or {other}",
    )


def _train_on_labels(preset: Preset) -> str:
    """Return the change after which all images have label maps."""
    changes = []
    if preset.data.train_labels == "none":
        given = "give the folder of the label maps in" if preset.dataset == "custom" else "remove"
        changes.append(f"{given} `data.train.labels`")
    if preset.data.unlabelled is not None:
        changes.append("leave `data.unlabelled` out: --set data.unlabelled=null")
    return ", and ".join(changes)


def has_images_without_labels(preset: Preset) -> bool:
    """Return whether a distillation sees images that have no labels at all, not even the teacher's."""
    data = preset.data
    return not data.teacher_labels and (data.train_labels == "none" or data.unlabelled is not None)


def _methods(preset: Preset) -> str:
    if preset.teacher.gives_only_features:
        return ", ".join(methods_on_stages())
    return ", ".join(methods_without_labels(on_logits=preset.data.train_labels == "none"))


def _place(stage: int | str | list[int | str]) -> str:
    places = stage if isinstance(stage, list) else [stage]
    return ", ".join(f"stage {place}" if isinstance(place, int) else place for place in places)
