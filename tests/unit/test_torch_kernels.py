"""Which kernel computes segment attention in the PyTorch engine; FlexAttention against the engine's own products."""

import argparse
import copy
import sys
from pathlib import Path

import pytest
from engine_cases import assert_close, packed, workload
from fake_backend import FakeBackend

from pytest_multiitem.engine import serve
from pytest_multiitem.engine.launch_line import ServeArgs, add_arguments
from pytest_multiitem.scoring.semantics import Semantics

torch = pytest.importorskip("torch")
torch_kernels = pytest.importorskip("pytest_multiitem.engine.torch_kernels")
flex_attention = pytest.importorskip("pytest_multiitem.engine.flex_attention")
torch_products = pytest.importorskip("pytest_multiitem.engine.torch_products")
model_files = pytest.importorskip("pytest_multiitem.engine.model_files")
torch_attention = pytest.importorskip("pytest_multiitem.engine.torch_attention")

HEADS = torch_kernels.Heads(4, 2, 16)


def kernel(name):
    return torch_kernels.SegmentKernel(name, torch_attention.segment, torch_attention.segment_last)


def test_a_cpu_has_the_frameworks_own_products():
    chosen = torch_kernels.choose("cpu", torch.float32, HEADS)
    assert chosen.kernel is torch_kernels.PRODUCTS and chosen.kernel.segment is torch_attention.segment
    assert chosen.others == {}


@pytest.mark.parametrize(
    "times", [{"triton": 0.001, "flex_attention": 0.002}, {"triton": 0.002, "flex_attention": 0.001}]
)
def test_the_fastest_kernel_is_taken_and_the_other_told(times):
    chosen = torch_kernels.fastest([kernel(name) for name in times], lambda one: times[one.name])
    assert times[chosen.kernel.name] == 0.001
    (other,) = times.keys() - {chosen.kernel.name}
    assert chosen.others == {other: "2.00 ms a layer"}


def test_a_kernel_that_does_not_run_is_told_and_not_taken():
    def timed(one):
        if one.name == "triton":
            raise RuntimeError("ptxas fatal: no such target\nmore")
        return 1.0

    chosen = torch_kernels.fastest([kernel("triton"), kernel("flex_attention")], timed)
    assert chosen.kernel.name == "flex_attention"
    assert chosen.others == {"triton": "failed: RuntimeError: ptxas fatal: no such target"}


def test_where_no_kernel_runs_the_products_do():
    chosen = torch_kernels.fastest([], lambda one: 0.0)
    assert chosen.kernel is torch_kernels.PRODUCTS and chosen.others == {}


def test_on_cuda_a_kernel_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytest_multiitem.engine.triton_attention", None)
    monkeypatch.setattr(torch_kernels, "seconds", lambda one, *_: 1.0)
    chosen = torch_kernels.choose("cuda", torch.bfloat16, HEADS)
    assert chosen.kernel.name == "flex_attention" and chosen.kernel.segment is flex_attention.segment
    assert chosen.others["triton"].startswith("not installed: ")


def test_the_server_tells_which_kernel_runs_and_why_another_does_not():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = ServeArgs.from_namespace(parser.parse_args([]))
    backend = FakeBackend()
    backend.attention, backend.attention_others = "flex_attention", {"triton": "2.00 ms a layer"}
    info = serve._server_info(args, args.scorer_config(), backend, Path("model"))
    assert info["attention"] == {"runs": "flex_attention", "others": {"triton": "2.00 ms a layer"}}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("semantics", [Semantics.QUERY_PREFIX, Semantics.PREFIX_FIRST_DELIM])
def test_the_engines_scores_by_flex_attention_equal_those_by_its_products(checkpoint, semantics):
    backend = model_files.load_backend("pytorch", checkpoint, dtype="float32", device="cpu")
    flexible = copy.copy(backend)
    flexible._kernel = torch_kernels.SegmentKernel("flex", flex_attention.segment, flex_attention.segment_last)
    query, items = workload(6)
    assert_close(*(packed(each, "segment", query, items, semantics) for each in (backend, flexible)))


AMD, INTEL = "vendor_id\t: AuthenticAMD\n", "vendor_id\t: GenuineIntel\n"


@pytest.mark.parametrize(
    ("capability", "cpuinfo", "dtype", "is_onednn"),
    [
        ("AVX512", AMD, "float32", True),
        ("AVX512", INTEL, "float32", False),
        ("AVX2", AMD, "float32", False),
        ("AVX512", AMD, "bfloat16", False),
        ("AVX512", "", "float32", False),
    ],
)
def test_rows_are_multiplied_with_weights_by_onednn_where_mkl_is_slow(
    monkeypatch, capability, cpuinfo, dtype, is_onednn
):
    if torch_products.onednn() is None or not torch.backends.mkl.is_available():
        pytest.skip("NOT_RUN: this PyTorch was built without oneDNN or MKL")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    product = torch_products.choose("cpu", getattr(torch, dtype), cpuinfo)
    assert (product is not torch.nn.functional.linear) == is_onednn


def test_onednn_multiplies_as_float64_does_and_every_row_alike():
    product = torch_products.onednn()
    if product is None:
        pytest.skip("NOT_RUN: this PyTorch was built without oneDNN")
    draw = torch.Generator().manual_seed(3)
    rows, weight = torch.randn(512, 96, generator=draw), torch.randn(70, 96, generator=draw)
    due = rows.double() @ weight.double().T
    assert (product(rows, weight) - due).abs().max() < 2e-5
    assert (product(rows[:1].expand(512, 96).contiguous(), weight) == product(rows[:32], weight)[0]).all()
