"""Reads text: files in every format to documents, whose sentences are broken where they are not."""
