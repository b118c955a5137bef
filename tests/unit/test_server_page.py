"""The examples of docs/reference/server.md, asked of the server that it is about."""

import argparse
import asyncio
import json
import re
import shlex
from pathlib import Path

import httpx
import numpy as np
import pytest

from pytest_multiitem.engine.launch_line import ServeArgs, add_arguments
from pytest_multiitem.engine.serve import application, build_service

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "server.md"
EXAMPLES = re.findall(r"```\n(curl [^\n]+)\n```\n\n```\n([^\n]+)\n```", PAGE.read_text(encoding="utf-8"))
PACKAGES = {"pytorch": "torch", "jax": "jax"}


@pytest.fixture(scope="module", params=PACKAGES)
def app(request):
    pytest.importorskip(PACKAGES[request.param])
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    line = ["--backend", request.param, "--multi-item-scoring-delimiter", "151643", "--multi-item-mask-impl", "segment"]
    args = ServeArgs.from_namespace(parser.parse_args(line))
    return application(args, build_service(args))


def alike(found, shown):
    """Equal, numbers to what the contract's tolerance is."""
    if isinstance(shown, dict):
        return found.keys() == shown.keys() and all(alike(found[key], value) for key, value in shown.items())
    if isinstance(shown, list):
        return len(found) == len(shown) and all(map(alike, found, shown))
    return np.isclose(found, shown, rtol=0, atol=1e-5) if isinstance(shown, float) else found == shown


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_page_shows_what_the_server_answers(app, command, shown):
    words = shlex.split(command)
    url, body = words[words.index("POST") + 1], words[words.index("-d") + 1]

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as client:
            return await client.post(url, content=body)

    found = asyncio.run(ask()).json()
    assert alike(found, json.loads(shown)), found


def test_the_page_has_an_example_of_each_endpoint_that_scores():
    paths = {re.search(r"POST (\S+)", command)[1].removeprefix("http://127.0.0.1:30010") for command, _ in EXAMPLES}
    assert paths == {"/v1/score", "/v1/rerank", "/v1/decisions"} and len(EXAMPLES) == 4
