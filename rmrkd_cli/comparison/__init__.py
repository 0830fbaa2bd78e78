"""Compare results that were measured alike: differences of mIoU with confidence intervals, groups of seeds."""
