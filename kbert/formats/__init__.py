"""A pretrained model in any format: loading and saving."""
