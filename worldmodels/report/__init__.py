"""Numbers and plots from the `scores.jsonl` of runs; no model is loaded."""
