"""Ways out: what a trained model can become."""
