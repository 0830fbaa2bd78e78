"""Experiments that take hours: training runs are killed, stopped and damaged, and must end as if nothing had happened.

`python -m tests.endurance NAME ...` runs them; pytest does not collect them.
"""
