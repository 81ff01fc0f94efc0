"""Evaluation of trained models: classification, probes, frozen features."""
