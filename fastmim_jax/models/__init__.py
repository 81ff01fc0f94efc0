"""Backbones, which know nothing of masking."""
