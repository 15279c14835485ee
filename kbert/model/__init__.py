"""BERT as Keras layers and functional models."""
