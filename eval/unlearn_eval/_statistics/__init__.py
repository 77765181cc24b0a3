"""The parts of `unlearn_eval.statistics`, which re-exports what is public."""
