"""What a pre-trained model is worth: fine-tuning, probes, features."""
