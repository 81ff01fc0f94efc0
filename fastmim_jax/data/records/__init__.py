"""Prepared records: an image with its label and name as bytes, and the manifest of a prepared data set."""
