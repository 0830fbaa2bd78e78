"""Train the roles of a preset: plan, loop, schedule, checkpoints and resume, run directory, log."""
