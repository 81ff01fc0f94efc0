"""The destination of an export: what may be replaced, and how it is swapped."""
