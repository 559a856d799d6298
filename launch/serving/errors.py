"""Errors of requests, in the form of text-embeddings-inference: {"error": ..., "error_type": ...}."""

from __future__ import annotations


class Refused(Exception):
    """A request that gets an error. `closes`: its connection is closed, as the rest of it is not read."""

    def __init__(self, status: int, error_type: str, message: str, *, closes: bool = False) -> None:
        super().__init__(message)
        self.status, self.error_type, self.message, self.closes = status, error_type, message, closes

    @property
    def content(self) -> dict[str, str]:
        """The JSON of the response."""
        return {"error": self.message, "error_type": self.error_type}


def invalid(message: str, status: int = 422) -> Refused:
    """Make the error of a request that is malformed (422) or too large (413)."""
    return Refused(status, "Validation", message)


def overloaded(status: int, message: str) -> Refused:
    """Make the error of a request for which there is no room (429) or no time (503)."""
    return Refused(status, "Overloaded", message)


def unhealthy() -> Refused:
    """Make the error of a server that stops."""
    return Refused(503, "Unhealthy", "the server is stopping")


def backend_error() -> Refused:
    """Make the error of a request for which the model has failed."""
    return Refused(424, "Backend", "the model failed on this request")


def other_model(gives: str, path: str) -> Refused:
    """Make the error of a request that this model cannot answer: what it gives, and the path that does."""
    return Refused(424, "Backend", f"this model gives {gives}: ask {path}")
