"""Bodies on their way in: how large one may be, how large all together, and the threads that read them."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from starlette.requests import Request

from pytest_multiitem.scoring.wire.errors import WireError, busy

_T = TypeVar("_T")

#: Bytes of one body, and of all that are not answered yet. JSON grows by up to 21 times when it is decoded
#: (`[[],[],…`), so that these two and the readers bound the memory of requests before any limit of theirs is known.
MOST_BYTES = 4 * 2**20
MOST_HELD_BYTES = 8 * MOST_BYTES
#: Bodies that are decoded, checked and tokenised at the same time.
_READERS = 2


class Intake:
    """Takes bodies of at most ``most_bytes`` each, ``most_held_bytes`` together; ``held``: of now. To be used in one
    event loop."""

    def __init__(self, most_bytes: int = MOST_BYTES, most_held_bytes: int = MOST_HELD_BYTES) -> None:
        self.most_bytes = most_bytes
        self.most_held_bytes = max(most_bytes, most_held_bytes)
        self.held = 0
        self._decoding = threading.Lock()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reader")

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, whose bytes count as held until the block ends. Raises WireError.

        A body that is too long is read on, and thrown away, up to twice the limit: a client that is cut off while it
        still sends would see a broken connection instead of the answer.
        """
        received, held = 0, 0
        chunks: list[bytes] = []
        try:
            async for chunk in request.stream():
                received += len(chunk)
                if received > self.most_bytes:
                    self.held, held = self.held - held, 0
                    chunks.clear()
                    if received > 2 * self.most_bytes:
                        break
                    continue
                if self.held + len(chunk) > self.most_held_bytes:
                    message = f"{self.held} bytes of requests are under way; this server holds at most "
                    raise busy("queue_full", f"{message}{self.most_held_bytes}: ask again later")
                self.held, held = self.held + len(chunk), held + len(chunk)
                chunks.append(chunk)
            if received > self.most_bytes:
                message = f"the body has more than {self.most_bytes} bytes; send fewer items in each request"
                raise WireError(413, "body_too_large", message)
            yield b"".join(chunks)
        finally:
            self.held -= held

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Decode and check a body in the block, while nobody else does.

        That holds Python's lock, and the collector, which a million small lists would set off again and again, would
        hold it for three times as long.
        """
        with self._decoding:
            gc.disable()
            try:
                yield
            finally:
                gc.enable()

    async def read(self, call: Callable[[], _T]) -> _T:
        """The result of a call that takes long for a large body, beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)
