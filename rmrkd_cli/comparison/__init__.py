"""Compare results that were measured in the same way: differences of mIoU with confidence intervals, groups of seeds."""
