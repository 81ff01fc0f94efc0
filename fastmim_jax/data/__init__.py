"""From files on disk to batches on the device; only `device` and `mixing` run there and import JAX."""
