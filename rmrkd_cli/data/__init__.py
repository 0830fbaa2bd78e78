"""Data sets: what is known of each, the samples on disk, augmentation, and the order of training."""
