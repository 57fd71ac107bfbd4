"""Writes zoo/serving/grpc_messages.bin: the messages of Triton's gRPC protocol that the server reads and writes.

    python tests/grpc_messages.py

They are taken from the installed tritonclient, without those of methods that are not answered.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from tritonclient.grpc import model_config_pb2, service_pb2

_LEFT_OUT = ("SystemSharedMemory", "CudaSharedMemory", "TraceSetting", "LogSettings")
_TARGET = Path(__file__).parents[1] / "zoo" / "serving" / "grpc_messages.bin"


def main() -> None:
    """Writes the file."""
    config = FileDescriptorProto.FromString(model_config_pb2.DESCRIPTOR.serialized_pb)
    service = FileDescriptorProto.FromString(service_pb2.DESCRIPTOR.serialized_pb)
    kept = [each for each in service.message_type if not each.name.startswith(_LEFT_OUT)]
    del service.message_type[:], service.service[:]
    service.message_type.extend(kept)
    _TARGET.write_bytes(FileDescriptorSet(file=[config, service]).SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
