"""Experiments that take hours: runs are killed, stopped and damaged, and must resume to the same result.

Run them with `python -m tests.endurance NAME ...`; pytest does not collect them.
"""
