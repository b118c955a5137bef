"""Applications on sockets of this process."""

import threading
from contextlib import contextmanager

import uvicorn

from pytest_multiitem.transport.listening import bind


@contextmanager
def listening(app):
    """An ASGI application on a socket; gives its URL."""
    listener = bind("127.0.0.1", 0)
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
