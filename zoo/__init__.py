"""Zoo: transfer learning from pretrained backbones to one servable ONNX file."""

__version__ = "0.1.0"
