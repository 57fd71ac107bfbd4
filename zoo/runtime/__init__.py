"""The ONNX Runtime engine: sessions, threads, exported models. Never torch."""
