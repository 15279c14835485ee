"""A pretraining run: its directory, devices, checkpoints, callbacks and validation."""
