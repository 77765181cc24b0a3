"""The parts of `unlearn_eval.verdict`, which re-exports what is public."""
