"""Pages that a browser shows: one for each run, one for all runs of a pipeline."""
