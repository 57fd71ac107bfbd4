"""Messages of the gRPC form of the protocol, in a pool of their own.

Clients in the same process register messages of the same names in protobuf's default pool, which takes each once.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass


def message(name: str) -> Any:
    """The class of a message, by its full name, such as `inference.ModelInferRequest`."""
    return GetMessageClass(_pool().FindMessageTypeByName(name))


@cache
def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    stored = files("zoo.serving").joinpath("grpc_messages.bin").read_bytes()  # by tests/grpc_messages.py
    for file in FileDescriptorSet.FromString(stored).file:
        pool.Add(file)
    pool.Add(_health())
    return pool


def _health() -> FileDescriptorProto:
    """grpc.health.v1, after health.proto of gRPC."""
    file = FileDescriptorProto(name="grpc/health/v1/health.proto", package="grpc.health.v1", syntax="proto3")
    asked = file.message_type.add(name="HealthCheckRequest")
    asked.field.add(name="service", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
    answer = file.message_type.add(name="HealthCheckResponse")
    states = answer.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        states.value.add(name=name, number=number)
    kind = ".grpc.health.v1.HealthCheckResponse.ServingStatus"
    answer.field.add(name="status", number=1, type="TYPE_ENUM", type_name=kind, label="LABEL_OPTIONAL")
    return file
