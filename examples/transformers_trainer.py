"""Distil one SegFormer into a smaller one with the Trainer of transformers: pip install transformers accelerate

python examples/transformers_trainer.py --steps 20
"""

import argparse
import tempfile

import torch
from shapes import CLASSES, Shapes
from torch.nn.functional import interpolate
from transformers import SegformerConfig, SegformerForSemanticSegmentation, Trainer, TrainingArguments

from rmrkd_cli import ConfusionMatrix, KDLoss


class DistillationTrainer(Trainer):
    def __init__(
        self, *args: object, teacher: torch.nn.Module, distillation: torch.nn.Module, **options: object
    ) -> None:
        super().__init__(*args, **options)
        self.teacher = teacher.to(self.args.device).eval()
        self.distillation = distillation.to(self.args.device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        output = model(**inputs)
        with torch.no_grad():
            teacher_logits = self.teacher(inputs["pixel_values"]).logits
        loss = output.loss + self.distillation(output.logits, teacher_logits, inputs["labels"][:, None])
        return (loss, output) if return_outputs else loss


def collate(items: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    images, labels = zip(*items, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.stack(labels)}


parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=20)
steps = parser.parse_args().steps
teacher = SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES))  # from_pretrained loads yours
student = SegformerForSemanticSegmentation(
    SegformerConfig(num_labels=CLASSES, hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 1, 1], decoder_hidden_size=64)
)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder, max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-3, report_to=[], save_strategy="no",
        remove_unused_columns=False, logging_steps=1,
    )  # fmt: skip
    trainer = DistillationTrainer(
        student, arguments, train_dataset=Shapes(4 * steps), data_collator=collate, teacher=teacher,
        distillation=KDLoss(CLASSES),
    )  # fmt: skip
    trainer.train()

matrix = ConfusionMatrix(CLASSES)
student.eval().cpu()
for image, labels in Shapes(8):
    with torch.no_grad():
        logits = interpolate(student(image[None]).logits, labels.shape, mode="bilinear")
    matrix.update(logits.argmax(1), labels[None])
print(f"mIoU {100 * matrix.result().miou:.2f}")
