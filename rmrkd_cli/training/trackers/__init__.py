"""Experiment trackers: where the scalars, pictures and results of a run go besides `log.jsonl`; one file a tracker."""
