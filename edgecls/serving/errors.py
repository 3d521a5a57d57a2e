"""What a request is refused for. Each protocol says it in its own form."""

from __future__ import annotations

from typing import Literal

from edgecls.errors import EdgeclsError

Reason = Literal[
    "invalid", "unauthenticated", "forbidden", "unknown", "not_ready", "too_slow", "too_large", "unsupported", "busy",
    "expired", "failed",
]  # fmt: skip
"""Why: what the client sent, what it may not do, what is not there, what the server has no room for, and so on."""

HTTP_STATUS: dict[Reason, int] = {
    "invalid": 400, "unauthenticated": 401, "forbidden": 403, "unknown": 404, "too_slow": 408, "not_ready": 409,
    "too_large": 413, "unsupported": 415, "failed": 500, "busy": 503, "expired": 504,
}  # fmt: skip
GRPC_STATUS: dict[Reason, str] = {
    "invalid": "INVALID_ARGUMENT", "unauthenticated": "UNAUTHENTICATED", "forbidden": "PERMISSION_DENIED",
    "unknown": "NOT_FOUND", "too_slow": "DEADLINE_EXCEEDED", "not_ready": "FAILED_PRECONDITION",
    "too_large": "RESOURCE_EXHAUSTED", "unsupported": "UNIMPLEMENTED", "failed": "INTERNAL",
    "busy": "RESOURCE_EXHAUSTED", "expired": "DEADLINE_EXCEEDED",
}  # fmt: skip
"""Names of gRPC's status codes."""
RETRY_AFTER_S = 1
"""When a client that was refused for want of room may come back."""


class RequestError(EdgeclsError):
    """A request that gets an error in place of an answer."""

    def __init__(self, reason: Reason, message: str):
        super().__init__(message)
        self.reason: Reason = reason


def invalid(message: str) -> RequestError:
    """The error for a request that makes no sense."""
    return RequestError("invalid", message)
