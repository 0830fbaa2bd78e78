"""Result records and training logs: the files that runs and evaluations write, and their readers."""
