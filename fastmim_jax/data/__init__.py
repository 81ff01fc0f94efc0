"""From files on disk to batches on the device; only `device` and `mixing`, which work there, import JAX."""
