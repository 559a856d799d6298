"""A connection of uvicorn that ends if the head of a request is not sent in time: uvicorn itself waits for ever."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

BODY = b'{"error":"the request was not sent in time","error_type":"Validation"}'
HEAD = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d"


class Connection(H11Protocol):
    """A connection that is closed, with status 408, if a request's head takes longer than `head_timeout_s`."""

    def __init__(self, *arguments: Any, head_timeout_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timeout_s = head_timeout_s
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(error)

    def _wait_for_head(self) -> None:
        """Start the timer with the first byte of a head, and stop it with the last."""
        is_incomplete = self.conn.their_state is h11.IDLE
        if is_incomplete and self._timer is None:
            self._timer = self.loop.call_later(self._head_timeout_s, self._end)
        elif not is_incomplete and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(HEAD % len(BODY) + b"\r\n\r\n" + BODY)
            self.transport.close()


def connection_class(head_timeout_s: float) -> Any:
    """What uvicorn makes its connections by."""
    return partial(Connection, head_timeout_s=head_timeout_s)
