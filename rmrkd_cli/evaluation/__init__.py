"""Measure checkpoints: inference, confusion matrix, result records, label files, latency."""
