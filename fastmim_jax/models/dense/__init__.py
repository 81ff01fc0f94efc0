"""Dense prediction: necks and heads on the grids of a backbone, and the segmentation model."""
