"""Search the weights and temperatures of a method's losses on short runs: `rmrkd tune`."""
