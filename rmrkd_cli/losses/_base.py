"""The base class of all distillation losses."""

from __future__ import annotations

from typing import Any, ClassVar, get_args, get_type_hints

import torch
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses._functional import check_labels, check_pair, working_precision


class DistillationLoss(nn.Module):
    """Compare a feature map of the student with the same map of the teacher.

    In a training loop of your own, give `loss.parameters()` to the optimizer together with the student's: several
    losses learn a layer.

    To add a loss, write one file in this package with one subclass. The file's name is the loss's `type` in presets::

        class MyLoss(DistillationLoss):
            def __init__(self, student_channels: int, teacher_channels: int, power: Positive = 2.0) -> None:
                super().__init__(student_channels, teacher_channels)
                self.power = power

            def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
                return (student.mean(1) - teacher.mean(1)).abs().pow(self.power).mean()

    - The signature of `__init__` is the only place for options: name, type with its bounds, default. Types come from
      `rmrkd_cli.presets.fields`, or are `bool` or `Literal[...]`. Presets accept exactly these options.
    - rmrkd fills in `student_channels`, `teacher_channels`, `num_classes`, `on_logits` and `map_size` where they are
      named, the last as height and width of the maps of a crop. A loss without `student_channels` acts on logits.
    - `compute` gets maps of matching shape in the same precision, float32 or float64. The teacher's is detached.

    Attributes:
        default_stage: The map it acts on where a preset names none: a backbone stage 1 to 4, "head", "logits" or "aux",
            or a list of them.
        map_name: What error messages call its maps.
        needs_labels: Whether `compute` reads the labels.
        search: Option -> the range in which `rmrkd tune` searches it, on a logarithmic scale.
        channels: Channels of the student's and of the teacher's map; tuples of them for a loss on several maps.
    """

    default_stage: ClassVar[int | str | list[str]] = "head"
    map_name: ClassVar[str] = "features"
    needs_labels: ClassVar[bool] = False
    search: ClassVar[dict[str, tuple[float, float]]] = {}

    def __init__(self, student_channels: int | tuple[int, ...], teacher_channels: int | tuple[int, ...]) -> None:
        super().__init__()
        self.channels: Any = (student_channels, teacher_channels)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Any:
        """Return the loss, a scalar without its weight; `AdversarialLoss` returns several by name.

        Args:
            student: (B, Cs, H, W) map.
            teacher: (B, Ct, H, W) map; receives no gradient.
            labels: (B, 1, Hi, Wi) integers at image resolution, 255 ignored.

        Raises:
            RmrkdError: When shapes do not match, or labels are needed and missing or are not integers.
        """
        check_pair(student, teacher, self.map_name, self.channels)
        if self.needs_labels and labels is None:
            raise RmrkdError(f"{type(self).__name__} needs labels, got None")
        if self.needs_labels and labels is not None:
            check_labels(labels, len(student))
        with torch.autocast(student.device.type, enabled=False):
            student = working_precision(student, self)
            return self.compute(student, teacher.detach().to(student.dtype), labels)

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Any:
        """Return the loss of two maps in the same precision."""
        raise NotImplementedError

    def check_choices(self, **options: str) -> None:
        """Raise RmrkdError for an option outside the `Literal[...]` that the constructor's signature gives it."""
        hints = get_type_hints(type(self).__init__)
        for name, value in options.items():
            if value not in (allowed := get_args(hints[name])):
                raise RmrkdError(f"{name} must be one of {', '.join(allowed)}, got `{value}`")
