"""From files on disk to batches on the device; `device`, `mixing` and `image_reader` alone import JAX."""
