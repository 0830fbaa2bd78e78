"""Search the weights and options of a method's losses on short runs: `rmrkd tune`."""
