"""Training steps on a pretended GPU: `python -m tests.fake_cuda --help`."""
