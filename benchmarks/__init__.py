"""Time and memory of rmrkd and of plain code with the same result: `python -m benchmarks` writes `RESULTS.md`."""
