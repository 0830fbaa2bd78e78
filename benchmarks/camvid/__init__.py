"""CamVid: what distillation adds to a small network on photographs, and what it costs."""
