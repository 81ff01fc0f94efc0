"""Tables and verdicts of the experiments, made from their logs."""
