"""How a request is refused: one status, one ``code`` and one ``param`` for each condition."""

from __future__ import annotations

import re

import msgspec

from pytest_multiitem.errors import MultiItemError


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """``code`` is for programs, ``message`` for people, ``param`` names the field (``items[3][0]``)."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The OpenAI-shaped error body."""

    error: ErrorDetail


class WireError(MultiItemError):
    """A request that is answered with an error.

    ``status``: the HTTP status. ``code``: the stable name. ``param``: the field at fault, if one is. ``retry_after``:
    seconds after which the same request may succeed, if it may.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def about(self, query: str, items: str) -> WireError:
        """The same error of a request that calls its query and its items otherwise, and is rendered into them.

        A token of an item, ``items[3][0]``, is one of the text that the third is rendered into: its ``documents[3]``.
        """
        found = re.fullmatch(r"(query|items)(\[\d+\])?(\[\d+\])?", self.param or "")
        param = self.param
        if found is not None:
            param = query if found[1] == "query" else f"{items}{found[2] or ''}"
        return WireError(self.status, self.code, self.message, param, retry_after=self.retry_after)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with the body."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

    def body(self) -> bytes:
        """The OpenAI-shaped JSON body."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        detail = ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code)
        return msgspec.json.encode(ErrorBody(error=detail))


def internal_error() -> WireError:
    """Anything unexpected: 500, with nothing of the engine's inside in the message."""
    return WireError(500, "internal_error", "the engine failed on this request; its log has the details")


def busy(code: str, message: str) -> WireError:
    """A good request that cannot be taken now: 503, and after a second it may be sent again."""
    return WireError(503, code, message, retry_after=1)
