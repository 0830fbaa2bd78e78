"""Distil large segmentation networks into small ones with RMRKD."""

__version__ = "0.1.0"
