"""Distil torchvision's DeepLabV3-ResNet50 into LR-ASPP-MobileNetV3 in a loop of your own.

python examples/plain_pytorch.py --steps 20
"""

import argparse

import torch
from shapes import CLASSES, Shapes
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.models.segmentation import deeplabv3_resnet50, lraspp_mobilenet_v3_large

from rmrkd_cli import ConfusionMatrix, CWDLoss

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=20)
steps = parser.parse_args().steps

teacher = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES)  # load your weights here
student = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)
distillation = CWDLoss(CLASSES, CLASSES)  # some losses have parameters, so the optimizer gets them too
optimizer = torch.optim.SGD([*student.parameters(), *distillation.parameters()], lr=0.02, momentum=0.9)
teacher.eval()
for step, (images, labels) in enumerate(DataLoader(Shapes(4 * steps), batch_size=4), start=1):
    with torch.no_grad():
        teacher_logits = teacher(images)["out"]
    logits = student(images)["out"]
    loss = cross_entropy(logits, labels) + 3 * distillation(logits, teacher_logits, labels[:, None])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.3f}")

matrix = ConfusionMatrix(CLASSES)
student.eval()
for images, labels in DataLoader(Shapes(8), batch_size=4):
    with torch.no_grad():
        matrix.update(student(images)["out"].argmax(1), labels)
print(f"mIoU {100 * matrix.result().miou:.2f}")
