"""The adversarial ("holistic") part of SKD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rmrkd_cli.losses._discriminator import SMALLEST, Discriminator
from rmrkd_cli.losses._functional import check_choice, check_pair, working_precision

OBJECTIVES = ("hinge", "wgan-gp")
_PENALTY = 10.0


class AdversarialLoss(nn.Module):
    """A discriminator learns to tell the teacher's logits from the student's, and the student to be taken for it.

    Source: Y. Liu, K. Chen, C. Liu, Z. Qin, Z. Luo, J. Wang, "Structured Knowledge Distillation for Semantic
    Segmentation", CVPR 2019; released code winycg/CIRKD at dab64db, `losses/adv.py`, `utils/sagan.py`, `train_kd.py`.
    The student minimises -mean D(S), whose factor (0.001 there) is the weight and is not applied here.

    The release moves the student first and the discriminator after it, on the logits from before the student moved.
    The discriminator's gradient does not depend on that move, so both are taken from one forward pass here. The order
    of the discriminator's passes is the release's: the student's logits for the student, the same for the
    discriminator, the teacher's. Each of them updates batch norm's statistics and spectral norm's vectors.

    Traps: the four halvings and the last convolution need 64 positions a side. Smaller logits, of crops below 512 at
    stride 8, are enlarged (bilinear, both networks' alike) so that the shorter side has 64 and the aspect stays;
    the release fails on them. Its batch norm is joined over GPUs; here each worker normalises with its own images.
    The discriminator computes in float32 under autocast too.

    Args:
        num_classes: K.
        objective: "hinge" (CIRKD): the discriminator minimises mean relu(1 - D(T)) + mean relu(1 + D(S)).
            "wgan-gp" (the default of SKD's and IFVD's releases): mean D(S) - mean D(T) + 10 * mean (|g| - 1)^2, g the
            gradient of D at a random point between S and T; it costs another pass and a second derivative.
        discriminator_weight: Factor of the discriminator's own loss.
        discriminator_lr: Learning rate of its Adam, which stays the same through the run.

    Attributes:
        extra_weights: Factor of each output beside the student's.
    """

    def __init__(
        self,
        num_classes: int,
        objective: str = "hinge",
        discriminator_weight: float = 0.1,
        discriminator_lr: float = 4e-4,
    ) -> None:
        super().__init__()
        check_choice("objective", objective, OBJECTIVES)
        self.num_classes, self.objective, self.discriminator_lr = num_classes, objective, discriminator_lr
        self.extra_weights = {"discriminator": discriminator_weight}
        self.discriminator = Discriminator(num_classes)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """A new optimizer that moves the discriminator."""
        return torch.optim.Adam(self.discriminator.parameters(), lr=self.discriminator_lr, betas=(0.9, 0.99))

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """The unweighted losses, scalars: "" moves the student alone, "discriminator" the discriminator alone.

        Args:
            student, teacher: (B, K, H, W) logits; the teacher receives no gradient.
            labels: Not used.
        """
        check_pair(student, teacher, "logits", (self.num_classes, self.num_classes))
        with torch.autocast(student.device.type, enabled=False):
            ours, theirs = (
                _enlarged(working_precision(maps, self.discriminator)) for maps in (student, teacher.detach())
            )
            fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
            scores = torch.func.functional_call(self.discriminator, fixed, (ours,))
            return {"": -scores.mean(), "discriminator": self._discriminator_loss(ours.detach(), theirs)}

    def _discriminator_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        fake, real = self.discriminator(student), self.discriminator(teacher)
        if self.objective == "hinge":
            return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()
        wasserstein: Tensor = fake.mean() - real.mean()
        return wasserstein + _PENALTY * self._penalty(student, teacher)

    def _penalty(self, student: Tensor, teacher: Tensor) -> Tensor:
        """How far the discriminator's slope between the two is from 1: mean over B of (|g| - 1)^2."""
        between = torch.lerp(student, teacher, self.draw_mix(student))
        # the fused kernels of attention have no second derivative
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            scores = self.discriminator(between.requires_grad_())
            (slope,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
        # its own derivative at a slope of 0 is 0, where a root's is infinite
        penalty: Tensor = (torch.linalg.vector_norm(slope.flatten(1), dim=1) - 1.0).square().mean()
        return penalty

    def draw_mix(self, like: Tensor) -> Tensor:
        """A fresh share of the teacher for each image, (B, 1, 1, 1), from torch's generator of the maps' device."""
        return torch.rand(like.shape[0], 1, 1, 1, device=like.device, dtype=like.dtype)


def _enlarged(maps: Tensor) -> Tensor:
    """(B, C, H, W) logits whose shorter side has at least as many positions as the discriminator needs."""
    shorter = min(maps.shape[2:])
    if shorter >= SMALLEST:
        return maps
    size = [round(side * SMALLEST / shorter) for side in maps.shape[2:]]
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
