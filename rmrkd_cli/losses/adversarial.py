"""The adversarial ("holistic") part of SKD."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._discriminator import MIN_SIDE, Discriminator
from rmrkd_cli.presets.fields import NonNegative, Positive

_PENALTY = 10.0


class AdversarialLoss(DistillationLoss):
    """Train a discriminator to separate the teacher's logits from the student's, and the student to deceive it.

    Source: Y. Liu, K. Chen, C. Liu, Z. Qin, Z. Luo, J. Wang, "Structured Knowledge Distillation for Semantic
    Segmentation", CVPR 2019; released code winycg/CIRKD at dab64db, `losses/adv.py`, `utils/sagan.py`, `train_kd.py`.
    The student minimises -mean D(S), whose factor (0.001 there) is the weight and is not applied here.

    The release updates the student first, and then the discriminator on the logits from before that update. The
    discriminator's gradient does not depend on it, so both gradients come from one forward pass here. The order of the
    discriminator's passes is the release's: the student's logits for the student, the same for the discriminator, the
    teacher's. Each of them updates batch norm's statistics and spectral norm's vectors.

    Known limits: the four halvings and the last convolution need 64 positions a side. Smaller logits, from crops below
    512 at stride 8, are enlarged (bilinear, for both networks) so that the shorter side has 64 and the aspect stays;
    the release fails on them. The release's batch norm runs over all GPUs; here each worker normalises its own images.
    The discriminator computes in float32 under autocast too.

    Args:
        num_classes: K.
        objective: "hinge" (CIRKD): the discriminator minimises mean relu(1 - D(T)) + mean relu(1 + D(S)).
            "wgan-gp" (the default of SKD's and IFVD's releases): mean D(S) - mean D(T) + 10 * mean (|g| - 1)^2, g the
            gradient of D at a random point between S and T; it costs another pass and a second derivative.
        discriminator_weight: Factor of the discriminator's own loss.
        discriminator_lr: Learning rate of its Adam, constant through the run.

    Attributes:
        extra_weights: Factor of each output beside the student's.
    """

    default_stage = "logits"
    map_name = "logits"

    def __init__(
        self,
        num_classes: int,
        objective: Literal["hinge", "wgan-gp"] = "hinge",
        discriminator_weight: NonNegative = 0.1,
        discriminator_lr: Positive = 4e-4,
    ) -> None:
        super().__init__(num_classes, num_classes)
        self.check_choices(objective=objective)
        self.num_classes, self.objective, self.discriminator_lr = num_classes, objective, discriminator_lr
        self.extra_weights = {"discriminator": discriminator_weight}
        self.discriminator = Discriminator(num_classes)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return a new optimizer for the discriminator."""
        parameters = list(self.discriminator.parameters())
        on_gpu = parameters[0].device.type == "cuda"  # where the fused form can skip a step without asking the host
        return torch.optim.Adam(parameters, lr=self.discriminator_lr, betas=(0.9, 0.99), fused=on_gpu or None)

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> dict[str, Tensor]:
        """Return two scalars: "" has gradients for the student only, "discriminator" for the discriminator only."""
        student, teacher = _enlarge(student), _enlarge(teacher)
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        scores = torch.func.functional_call(self.discriminator, frozen, (student,))
        return {"": -scores.mean(), "discriminator": self._discriminator_loss(student.detach(), teacher)}

    def _discriminator_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        fake, real = self.discriminator(student), self.discriminator(teacher)
        if self.objective == "hinge":
            return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()
        wasserstein: Tensor = fake.mean() - real.mean()
        return wasserstein + _PENALTY * self._gradient_penalty(student, teacher)

    def _gradient_penalty(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over B of (|g| - 1)^2, g the discriminator's gradient between the two maps."""
        between = torch.lerp(student, teacher, self.draw_mix(student))
        # the fused kernels of attention have no second derivative
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            scores = self.discriminator(between.requires_grad_())
            (slope,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
        # the derivative of vector_norm at 0 is 0, that of a square root is infinite
        penalty: Tensor = (torch.linalg.vector_norm(slope.flatten(1), dim=1) - 1.0).square().mean()
        return penalty

    def draw_mix(self, like: Tensor) -> Tensor:
        """Return a fresh share of the teacher for each image, (B, 1, 1, 1), from torch's generator of the device."""
        return torch.rand(like.shape[0], 1, 1, 1, device=like.device, dtype=like.dtype)


def _enlarge(maps: Tensor) -> Tensor:
    """Return (B, C, H, W) logits whose shorter side has at least as many positions as the discriminator needs."""
    shorter = min(maps.shape[2:])
    if shorter >= MIN_SIDE:
        return maps
    size = [round(side * MIN_SIDE / shorter) for side in maps.shape[2:]]
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
