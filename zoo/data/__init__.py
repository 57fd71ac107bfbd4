"""Data sets: finding the images, decoding them, splitting them, and a manifest with a fingerprint. No torch."""
