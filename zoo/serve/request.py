"""What is to be served, and how."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zoo.errors import UsageError
from zoo.runtime.session import Device
from zoo.serve.settings import ModelSettings
from zoo.serving.http import Limits
from zoo.serving.listen import Ending
from zoo.serving.traffic import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files (PEM) for HTTPS."""

    certificate: Path
    key: Path | None = None
    client_ca: Path | None = None
    """Only clients with a certificate of one of these are let in."""

    def context(self) -> ssl.SSLContext:
        """Raises UsageError for files that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"certificates cannot be used: {error}; give PEM files that belong together") from None
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    """Which files to serve, and how."""

    models: tuple[Path, ...]
    """Files, and folders of them."""
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    """Of the gRPC form of the protocol; None is off."""
    device: Device = "auto"
    device_id: int = 0
    """Which NVIDIA device."""
    cpus: tuple[int, ...] = ()
    """Processors to run on, in equal shares for each process; none is any."""
    workers: int = 1
    """Processes that serve the same port."""
    settings: ModelSettings = field(default_factory=ModelSettings)
    """Of models that have none of their own."""
    own_settings: Mapping[str, ModelSettings] = field(default_factory=dict)
    """By model."""
    memory_budget: int | None = None
    """Bytes that may be resident in each process; a model that would take more is refused."""
    timeout: float = 30.0
    """Seconds after which a client is told that there is no answer in time; 0 is never."""
    canaries: Mapping[str, Share] = field(default_factory=dict)
    """By model, the version that answers a share of the requests that name none."""
    shadows: Mapping[str, Share] = field(default_factory=dict)
    """By model, the version that is asked the same as the one that answers, and compared with it."""
    poll: float = 2.0
    """Seconds between two looks for replaced files; 0 is never."""
    allow_load: bool = False
    """Whether clients may load and unload models."""
    api_keys: tuple[str, ...] = ()
    """Without one of them nothing but the health of the server is told; where there are none, all is."""
    tls: Tls | None = None
    access_log: bool = False
    trace: bool = False
    """Whether OpenTelemetry traces are sent."""
    limits: Limits = field(default_factory=Limits)
    ending: Ending = field(default_factory=Ending)

    def settings_of(self, name: str) -> ModelSettings:
        """The settings of a model."""
        return self.own_settings.get(name, self.settings)
