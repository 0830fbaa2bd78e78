"""What rmrkd costs beside plain code that computes the same: `python -m benchmarks` writes `RESULTS.md`."""
