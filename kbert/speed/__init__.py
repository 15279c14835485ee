"""How fast a machine trains a model, measured here or compiled for a TPU."""
