"""Builds records: from text files to token ids, to masked pairs, to shards and their manifest."""
