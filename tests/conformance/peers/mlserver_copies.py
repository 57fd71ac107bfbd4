"""MLServer with a model that gives back what it is sent, as `models.py` makes them.

python mlserver_copies.py FOLDER      # a scratch folder; HTTP on 8180, gRPC on 8181
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec, StringCodec

_BITS = (8, 16, 32, 64)
KINDS = ("BOOL", *(f"{sign}INT{bits}" for sign in ("", "U") for bits in _BITS), "FP32", "FP64", "BYTES")


class Copies(MLModel):
    """Decodes each input to an array, and encodes it as an output."""

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """The outputs asked for, all of them where none is named."""
        wanted = {output.name for output in payload.outputs or []}
        outputs = []
        for tensor in payload.inputs:
            name = tensor.name.replace("_in", "_out")
            if wanted and name not in wanted:
                continue
            if tensor.datatype == "BYTES":
                values = np.array(StringCodec.decode_input(tensor), object).reshape(tensor.shape)
                output = StringCodec.encode_output(name, values.ravel().tolist())
                outputs.append(output.model_copy(update={"shape": list(values.shape)}))
            else:
                outputs.append(NumpyCodec.encode_output(name, NumpyCodec.decode_input(tensor)))
        return types.InferenceResponse(model_name=self.name, outputs=outputs)


def main(folder: Path) -> None:
    """Writes the settings, and becomes the server."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"host": "127.0.0.1", "http_port": 8180, "grpc_port": 8181, "parallel_workers": 0, "debug": False}
    (folder / "settings.json").write_text(json.dumps({**settings, "metrics_endpoint": None}))
    tensors = [{"name": f"{kind.lower()}_in", "datatype": kind, "shape": [-1, 2]} for kind in KINDS]
    model = {
        "name": "kinds",
        "implementation": "mlserver_copies.Copies",
        "platform": "copies",
        "inputs": tensors,
        "outputs": [{**tensor, "name": tensor["name"].replace("_in", "_out")} for tensor in tensors],
        "parameters": {"version": "1"},
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = Path(sys.executable).with_name("mlserver")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    os.execve(command, [str(command), "start", str(folder)], environment)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
