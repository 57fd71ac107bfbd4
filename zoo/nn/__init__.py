"""The torch engine: staged backbones, preprocessing, heads on top, weights."""
