"""What serving is asked for: models, addresses, and the limits of what clients may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecls.artifact.reference import FALSE_REFUSALS
from edgecls.backends.base import MAX_THREADS
from edgecls.errors import UsageError
from edgecls.settings import LONGEST_S, setting
from edgecls.web.config import TokenConfig
from edgecls.web.limits import Limits
from edgecls.web.server import host_and_port

OFF = "off"
MOST_IMAGES = 65_536
MOST_MIB = 65_536.0


@dataclass(frozen=True, kw_only=True)
class ServeConfig(TokenConfig):
    """Which models are served where, and within which limits. None leaves a choice to the program."""

    models: tuple[str, ...] = setting(
        (),
        "Runs, bundles or model files, as PATH, NAME=PATH or NAME:VERSION=PATH; the best bundle of the latest run "
        "where none is given.",
    )
    http: str = setting("8000", f"Where HTTP listens: a port of this machine alone, or host:port; {OFF} for nowhere.")
    grpc: str = setting("8001", f"Where gRPC listens, in the same way; {OFF} for nowhere.")
    tls_cert: Path | None = setting(None, "A PEM file of certificates: both listen with TLS.")
    tls_key: Path | None = setting(None, "The PEM file of the certificate's key.")
    allow_origin: tuple[str, ...] = setting((), "A web site whose pages may ask, as https://shop.example.")
    threads: int | None = setting(
        None, "Threads that decode and infer; one a processor unless given.", low=1, high=MAX_THREADS
    )
    max_batch: int | None = setting(
        None,
        "Images of several requests that are inferred together, at most; measured for each model unless given.",
        low=1, high=1024,
    )  # fmt: skip
    batch_delay_ms: float = setting(
        0.0,
        "How long a request waits for others to be inferred with; with 0 while all threads are busy only.",
        low=0.0, high=10_000.0, unit="milliseconds",
    )  # fmt: skip
    queue: int = setting(
        256, "Requests of a model that may wait or be computed at a time; more are refused.", low=1, high=100_000
    )
    timeout_s: float = setting(
        30.0, "How long a request may take, its body included.", low=1e-3, high=LONGEST_S, unit="seconds"
    )
    max_images: int = setting(256, "Images in a request.", low=1, high=MOST_IMAGES)
    body_mib: float = setting(32.0, "MiB in a request, unpacked.", low=0.001, high=2047.0, unit="MiB")
    held_mib: float = setting(
        512.0, "MiB of all requests together that are being read or answered.", low=0.001, high=MOST_MIB, unit="MiB"
    )
    connections: int = setting(
        512, "HTTP connections; where there are more, the longest idle one is closed.", low=1, high=100_000
    )
    drain_s: float = setting(
        10.0, "How long the end may take that SIGTERM asks for.", low=0.0, high=LONGEST_S, unit="seconds"
    )
    access_log: bool = setting(False, "Tell each request on standard error, as a line of JSON.")
    unknown: bool = setting(False, 'Say "unknown" of what the models were not trained for.')
    false_refusals: float = setting(
        FALSE_REFUSALS, 'Share of known images that "unknown" may be said of.', low=0.0, high=1.0
    )
    no_check: bool = setting(False, "Do not replay the models' golden inputs the first time on a machine.")

    @property
    def body_bytes(self) -> int:
        """Of a request, unpacked."""
        return int(self.body_mib * 2**20)

    @property
    def held_bytes(self) -> int:
        """Of all requests together."""
        return int(self.held_mib * 2**20)

    @property
    def limits(self) -> Limits:
        """Those of HTTP connections; a proxy in front may have all of them."""
        return Limits(connections=self.connections, connections_per_client=self.connections, idle_s=75.0)

    def addresses(self) -> dict[str, tuple[str, int]]:
        """Host and port of each protocol that is on. Raises `UsageError`."""
        given = {"http": self.http, "grpc": self.grpc}
        return {name: host_and_port(address, name) for name, address in given.items() if address != OFF}

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        super().check()
        addresses = self.addresses()
        if not addresses:
            raise UsageError("`http` and `grpc` are both off; leave one of them on")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("`tls_cert` and `tls_key` belong together; give both")
        if self.body_mib > self.held_mib:
            raise UsageError("`held_mib` must be at least `body_mib`")
        for origin in self.allow_origin:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise UsageError(f"`allow_origin` takes a site such as https://shop.example, not {origin[:60]!r}")

    def token(self) -> str | None:
        """The token itself, None where none is given. Raises `UsageError` for one that no header of both can hold."""
        token = super().token()
        if token is not None and not token.isascii():
            raise UsageError("the token takes ASCII characters alone: gRPC sends no others")
        return token
