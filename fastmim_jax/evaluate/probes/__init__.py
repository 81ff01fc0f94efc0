"""Probes: simple classifiers on frozen features."""
