"""Records on disk: digests, JSON written atomically, run folders, the manifest inside a model."""
