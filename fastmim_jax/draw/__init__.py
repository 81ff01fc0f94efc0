"""Pictures: pages of images, HOG glyphs, curves and confusion matrices, in one dark style (`style`)."""
