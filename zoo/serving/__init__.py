"""The server engine: the Open Inference Protocol v2 over HTTP. Knows tensors, not how a model runs them."""
