"""Segmentation: scores, and the evaluation of fine-tuned models by sliding windows."""
