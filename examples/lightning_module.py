"""The same distillation as a module of Lightning: pip install lightning

python examples/lightning_module.py --steps 20
"""

import argparse

import lightning
import torch
from shapes import CLASSES, Shapes
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.models.segmentation import deeplabv3_resnet50, lraspp_mobilenet_v3_large

from rmrkd_cli import ConfusionMatrix, CWDLoss


class Distillation(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.student = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)
        self.distillation = CWDLoss(CLASSES, CLASSES)
        teacher = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES)  # load your weights here
        self.teacher = teacher.eval().requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.teacher.eval()  # Lightning puts every submodule into training mode

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        images, labels = batch
        with torch.no_grad():
            teacher_logits = self.teacher(images)["out"]
        logits = self.student(images)["out"]
        loss = cross_entropy(logits, labels) + 3 * self.distillation(logits, teacher_logits, labels[:, None])
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.matrix = ConfusionMatrix(CLASSES)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> None:
        images, labels = batch
        self.matrix.update(self.student(images)["out"].argmax(1), labels)

    def on_validation_epoch_end(self) -> None:
        self.log("mIoU", 100 * self.matrix.result().miou)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [*self.student.parameters(), *self.distillation.parameters()]
        return torch.optim.SGD(trained, lr=0.02, momentum=0.9)


parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=20)
steps = parser.parse_args().steps
trainer = lightning.Trainer(
    max_steps=steps, accelerator="auto", logger=False, enable_checkpointing=False, num_sanity_val_steps=0
)
trainer.fit(Distillation(), DataLoader(Shapes(4 * steps), 4), DataLoader(Shapes(8), 4))
print(f"mIoU {trainer.callback_metrics['mIoU']:.2f}")
