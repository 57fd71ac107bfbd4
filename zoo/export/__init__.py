"""The verb `export`: a finished run becomes one ONNX file that provably gives the same answers."""
