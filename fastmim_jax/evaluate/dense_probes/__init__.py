"""Probes of pixels: segmentation and depth from frozen features."""
