"""Eight bits with optimum-onnx, as its documentation has it for static quantisation on a processor with VNNI.

Called by `quantisers.py`, in optimum's own environment, as `quantisers_optimum.py MODEL IMAGES OUT SHAPE...`: a plain
ONNX file, a folder of prepared images [SHAPE], one file of raw float32 each, and the folder to write into.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from datasets import Dataset
from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer
from optimum.onnxruntime.configuration import AutoCalibrationConfig

model, images, out = (Path(word) for word in sys.argv[1:4])
shape = [int(word) for word in sys.argv[4:]]
data = Dataset.from_list([{"x": np.fromfile(file, np.float32).reshape(shape)} for file in sorted(images.iterdir())])
quantizer = ORTQuantizer.from_pretrained(model.parent, file_name=model.name)
config = AutoQuantizationConfig.avx512_vnni(is_static=True, per_channel=True)
calibration = AutoCalibrationConfig.minmax(data)
ranges = quantizer.fit(data, calibration, operators_to_quantize=config.operators_to_quantize)
quantizer.quantize(config, out, calibration_tensors_range=ranges)
