"""Pre-training methods: masking, targets, losses, and one module per method."""
