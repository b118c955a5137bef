"""Applications on sockets of this process."""

import asyncio
import threading
from contextlib import contextmanager

import uvicorn

from pytest_multiitem.transport.listening import bind


class _Server(uvicorn.Server):
    """Ends when it is told to; uvicorn's own looks every 0.1 s whether it is, and waits as long for its connections."""

    over = None

    async def main_loop(self):
        await self.on_tick(0)
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        if not self.should_exit:
            await self.over.wait()

    async def shutdown(self, sockets=None):
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:
            await asyncio.sleep(0.002)

    def end(self):
        self.should_exit = True
        if self.over is not None:
            self.loop.call_soon_threadsafe(self.over.set)


@contextmanager
def listening(app):
    """An ASGI application on a socket; gives its URL."""
    listener = bind("127.0.0.1", 0)
    listener.listen()
    server = _Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.end()
        thread.join(10)
        listener.close()
