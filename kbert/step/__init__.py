"""The training step: objectives, optimizers, dropout, and one step for each backend."""
