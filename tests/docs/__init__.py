"""README, CONTRIBUTING and docs/, tested like code."""
