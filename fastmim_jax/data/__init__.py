"""Everything between files on disk and uint8 batches on the device; only `device` imports JAX."""
