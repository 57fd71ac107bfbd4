"""Asks a running server: `zoo serve`, or any other one of the Open Inference Protocol v2."""

from zoo.client.client import Client

__all__ = ["Client"]
