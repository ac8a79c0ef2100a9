"""What ``core.experiment`` is made of: an experiment's file, where each of its runs stands, carrying them out, the report."""
