"""LS-KD: the class probabilities of every pixel, after logit standardization."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._functional import kl_divergence
from rmrkd_cli.presets.fields import Positive

_EPSILON = 1e-7  # added to the standard deviation, as in the release


class LSKDLoss(DistillationLoss):
    """Standardize the logits of both networks, then match their distributions over classes at each position.

    Standardized logits have mean 0 and standard deviation 1 (with K - 1 in its denominator), so the student matches the
    teacher's order and ratios of logits, and not their size.

    Source: S. Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv 2403.01427, Algorithm 1;
    sunshangquan/logit-standardization-KD at f6e5aa5, `mdistiller/distillers/KD.py`. It classifies images, (B, K); its
    functions standardize the last axis. On maps (B, K, H, W) that axis is the image's width.

    - "classes": each pixel over its K classes; what the paper means.
    - "width": each class and row over the width; what the released functions do to maps.

    Ignored pixels count like all others.

    Args:
        num_classes: K, the channels of the logits.
        tau: Temperature; the paper calls it the base temperature.
        standardize: One of the above.
    """

    default_stage = "logits"
    map_name = "logits"
    search = {"tau": (0.5, 10.0)}

    def __init__(
        self, num_classes: int, tau: Positive = 2.0, standardize: Literal["classes", "width"] = "classes"
    ) -> None:
        super().__init__(num_classes, num_classes)
        self.check_choices(standardize=standardize)
        self.tau = tau
        self.standardize = standardize

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return tau^2 times the mean divergence of a position."""
        dim = 1 if self.standardize == "classes" else 3
        total = kl_divergence(_standardized(student, dim), _standardized(teacher, dim), self.tau, dim=1)
        return total * self.tau**2 * student.shape[1] / student.numel()


def _standardized(logits: Tensor, dim: int) -> Tensor:
    if logits.shape[dim] == 1:
        return 0 * logits  # one value has no standard deviation
    deviation = logits.std(dim, keepdim=True)
    return (logits - logits.mean(dim, keepdim=True)) / (_EPSILON + deviation)
