"""Presets: their schema, the YAML reader, method recipes. No file here imports torch."""
