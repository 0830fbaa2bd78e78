"""Drawn squares on grey, in place of your data set: images as torchvision's networks expect them, and label maps."""

import torch
from torch.utils.data import Dataset

CLASSES = 3  # background, light square, dark square


class Shapes(Dataset):
    """Items (image (3, 96, 96), label map (96, 96))."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(index)
        image, labels = torch.randn(3, 96, 96, generator=generator) / 4, torch.zeros(96, 96, dtype=torch.long)
        for label, value in ((1, 1.5), (2, -1.5)):
            top, left = torch.randint(0, 56, (2,), generator=generator).tolist()
            image[:, top : top + 40, left : left + 40] += value
            labels[top : top + 40, left : left + 40] = label
        return image, labels
