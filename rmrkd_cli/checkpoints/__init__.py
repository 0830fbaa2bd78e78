"""Read checkpoints safely, write them atomically, and extract the student."""
