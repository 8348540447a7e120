"""An answer that is not a success, as an exception."""

from __future__ import annotations


class HttpStatusError(Exception):
    """A response whose status is no success. Its text tells method and status, never URL or body.

    Attributes:
        method: of the request.
        status: of the response.
        retry_after_header: the raw `Retry-After`, if there was one.
    """

    def __init__(self, method: str, status: int, retry_after_header: str | None = None) -> None:
        super().__init__(method, status, retry_after_header)
        self.method = method
        self.status = status
        self.retry_after_header = retry_after_header

    @property
    def telemetry_type(self) -> str:
        """What metrics and traces show as `error.type`: the status."""
        return str(self.status)

    def __str__(self) -> str:
        return f"{self.method} was answered with HTTP {self.status}"
