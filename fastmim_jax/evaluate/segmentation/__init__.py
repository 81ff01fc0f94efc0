"""Evaluation of dense prediction: scores, frozen probes, and their pictures."""
