"""What the commands do, as functions: `from rmrkd_cli import train, evaluate, compare, predict, export`."""
