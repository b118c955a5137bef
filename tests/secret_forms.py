"""Secrets in every form in which a user gives them or a server tells them, each with a value of its own."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hostile_servers import Asked, Piece, answer


class Secrets:
    """Hands out values that are looked for afterwards; ``values`` by what each was."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def of(self, form: str) -> str:
        """A new secret value."""
        return self.values.setdefault(form, f"Zq{len(self.values):02d}xSECRETx{len(form):02d}vJ")

    def found_in(self, content: bytes) -> list[str]:
        """The forms whose value stands in some bytes, however it is written there."""
        return [
            form
            for form, value in self.values.items()
            if any(each in content for each in (value.encode(), base64.b64encode(value.encode()), value[::-1].encode()))
        ]

    def leaks(self, directory: Path, *texts: str | bytes) -> list[tuple[str, str]]:
        """Where a secret stands: in a file below a directory, in its name, or in a text that was shown."""
        found = [
            ("a text", form)
            for text in texts
            for form in self.found_in(text.encode() if isinstance(text, str) else text)
        ]
        for path in directory.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            found += [(str(path), form) for form in self.found_in(str(path).encode() + content)]
        return found


def info_with(secrets: Secrets) -> dict[str, Any]:
    """What a careless server tells of itself."""
    of = secrets.of
    return {
        "model_path": "a-model",
        "dtype": "float32",
        "vocab_size": 30_000,
        "max_multi_item_seq_len": 2048,
        "api_key": of("api_key"),
        "admin_api_key": of("admin_api_key"),
        "hfToken": of("camel case"),
        "ssl_keyfile_password": of("password of a file"),
        "tokenizer_path": "a-tokenizer",
        "internal_states": [{"config": {"deep": [{"client-secret": of("deep in lists")}]}}],
        "argv": ["serve", "--api-key", of("list of words"), "--port", "1", f"--password={of('word with =')}"],
        "command": f"python -m x --api-key {of('words in a text')} --port 1",
        "cmdline": f"python -m x --api-key={of('word in a text')} --port 1",
        "server_args": f"ServerArgs(model='m', api_key='{of('repr')}', port=1)",
        "config_json": json.dumps({"auth_token": of("JSON in a text"), "x": 1}),
        "environment": {"HF_TOKEN": of("environment"), "PATH": "/bin"},
        "env": [{"name": "OPENAI_API_KEY", "value": of("name and value")}],
        "env_text": f"PATH=/bin\nAWS_SECRET_ACCESS_KEY={of('environment in a text')}\n",
        "upstream": f"https://someone:{of('address')}@upstream.example/x",
        "database": {"dsn": f"postgres://u:{of('another scheme')}@db/x"},
        "headers": {"Authorization": f"Bearer {of('header')}", "Cookie": f"session={of('cookie')}"},
        "head": f"X-Api-Key: {of('header in a text')}\r\nAccept: */*",
        "pairs": [["password", of("pair")]],
        "pem": f"-----BEGIN PRIVATE KEY-----\n{of('PEM')}\n-----END PRIVATE KEY-----",
        "hub": f"a token hf_{of('known form')}0123456789",
        "url": f"http://h/x?api_key={of('query of an address')}&y=1",
    }


def echoing(secrets: Secrets, status: bytes = b"500 Oops") -> Any:
    """An error that repeats what it was sent and tells more."""

    async def echo(asked: Asked) -> AsyncIterator[Piece]:
        sent = asked.headers.get("authorization", "")
        login = base64.b64decode(sent.split()[-1]).decode() if sent.startswith("Basic") else sent
        words = [
            f"bad key: {sent}", login, login.partition(":")[2], quote(sent, safe=""), repr(sent), sent.split()[-1:],
            dict(asked.headers), f"password={secrets.of('in an error')}", f"token: {secrets.of('token in an error')}",
            f"http://a:{secrets.of('address in an error')}@b/",
        ]  # fmt: skip
        place = f"location: {asked.server}/{secrets.of('redirect')}?key={quote(sent)}".encode()
        yield answer(json.dumps({"error": {"message": words}}).encode(), place, status=status)
        yield None

    return echo


def with_login(url: str, secrets: Secrets, form: str, *, encoded: bool = False) -> str:
    """An address with a user and a password."""
    password = secrets.of(form)
    shown = "".join(f"%{ord(char):02X}" for char in password) if encoded else password
    return url.replace("http://", f"http://user:{shown}@")


def environment(secrets: Secrets) -> Mapping[str, str]:
    """A key with the line break that many files end with."""
    return {"MULTI_ITEM_API_KEY": secrets.of("key in the environment") + "\r\n"}
