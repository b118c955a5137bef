"""Many servers in one process: each behaves as if it stood alone."""

import httpx
import pytest
import pytest_asyncio

from pytest_multiitem.engine import lab as lab_module

pytest.importorskip("torch")

BODY = {"query": [1, 2, 3], "items": [[4], [5, 6], [7]], "label_token_ids": [8, 9], "apply_softmax": True}
PACKED = ["--multi-item-scoring-delimiter", "999", "--multi-item-scoring-chunk-size", "0"]


@pytest.fixture(scope="module")
def model(checkpoint):
    return ["--model-path", str(checkpoint)]


@pytest_asyncio.fixture
async def client():
    made = lab_module.Lab()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://lab") as http:
        yield http
    made.worker.close(5)


async def mounted(client, *argv):
    answer = await client.post("/mount", json={"argv": list(argv)})
    assert answer.status_code == 200, answer.text
    return answer.json()["path"]


@pytest.mark.asyncio
async def test_servers_share_a_model_and_nothing_else(client, model, monkeypatch):
    loads = []
    load = lab_module.load_backend
    monkeypatch.setattr(lab_module, "load_backend", lambda *a, **k: loads.append(a) or load(*a, **k))
    serial, packed = await mounted(client, *model), await mounted(client, *model, *PACKED)
    late = await mounted(client, *model, *PACKED, "--fault", "score_at_delimiter")
    assert len(loads) == 1 and len({serial, packed, late}) == 3
    rows = {path: (await client.post(f"{path}/v1/score", json=BODY)).json()["scores"] for path in (packed, late)}
    assert rows[packed] != rows[late]
    info = {path: (await client.get(f"{path}/get_server_info")).json() for path in (serial, packed, late)}
    assert info[serial]["executed"]["requests"] == 0 and info[packed]["executed"]["requests"] == 1
    assert info[late]["faults"] == ["score_at_delimiter"] and "faults" not in info[packed]
    assert (await client.get(f"{packed}/health")).status_code == 200
    assert (await client.get(f"{packed}/nowhere")).json()["error"]["code"] == "not_found"


@pytest.mark.asyncio
async def test_a_fault_of_the_wire_is_mounted_as_well(client, model):
    path = await mounted(client, *model, *PACKED, "--fault", "short_list")
    assert len((await client.post(f"{path}/v1/score", json=BODY)).json()["scores"]) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--fault", "leek"], "no fault is called 'leek'"),
        (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["--backend", "transformers", "--multi-item-scoring-delimiter", "5"], "scores serially only"),
        (["--model-path", "/nowhere/at/all"], "is no directory"),
    ],
)
async def test_what_cannot_be_served_is_refused_with_a_reason(client, argv, message):
    answer = await client.post("/mount", json={"argv": argv})
    assert answer.status_code == 400 and message in answer.text
    assert (await client.get("/health")).status_code == 200


@pytest.mark.asyncio
async def test_a_path_that_nobody_serves(client):
    assert (await client.post("/7/v1/score", json=BODY)).status_code == 404
    assert (await client.post("/mount", content=b"{")).status_code == 400
