"""Ways out and in: the formats that a pretrained model can have."""
