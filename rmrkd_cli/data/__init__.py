"""Data sets: their description, their files, augmentation, and the order of training samples."""
