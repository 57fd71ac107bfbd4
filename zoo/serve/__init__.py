"""The verb `serve`: ONNX files behind the Open Inference Protocol."""
