"""Programs compiled ahead: once for each shape, from any thread, and nothing but the executable kept."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")

from pytest_multiitem.engine.jax_ahead import Program, program  # noqa: E402


@pytest.fixture
def scaled():
    """A program, and how often it was traced."""
    traced = []

    @program("power")
    def scaled(x, factor, power=1):
        traced.append(threading.get_ident())
        return (x * factor) ** power

    return scaled, traced


def test_each_shape_type_and_static_value_is_compiled_once(scaled):
    function, traced = scaled
    two, three = np.arange(2, dtype=np.float32), np.arange(3, dtype=np.float32)
    for x, power, compiled in ((two, 1, 1), (two, 1, 1), (three, 1, 2), (two, 2, 3), (two.astype(np.int32), 1, 4)):
        found = function(x, np.asarray(3, x.dtype), power=power)
        assert (np.asarray(found) == (3 * x) ** power).all()
        assert function.count == len(traced) == compiled
    assert (np.asarray(function(factor=np.float32(2), x=two)) == 2 * two).all()
    assert function.count == 4


def test_threads_that_ask_for_the_same_program_at_once_compile_it_once(scaled):
    function, traced = scaled
    x, together = np.arange(8, dtype=np.float32), threading.Barrier(8)

    def call(number):
        together.wait()
        return np.asarray(function(x, np.float32(number)))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(call, range(8)))
    assert all((result == number * x).all() for number, result in enumerate(found))
    assert function.count == len(traced) == 1


def test_what_a_program_was_traced_from_is_not_kept(monkeypatch):
    made = []

    def jitted(self, original=Program.jitted):
        function = original(self)
        made.append(weakref.ref(function))
        return function

    monkeypatch.setattr(Program, "jitted", jitted)
    twice = program()(lambda x: x + x)
    assert np.asarray(twice(np.ones(3, np.float32))).tolist() == [2, 2, 2]
    gc.collect()
    assert len(made) == 1 and made[0]() is None


def test_a_donated_argument_is_given_away():
    @program(donated=("state",))
    def added(x, state):
        return state + x

    state = jax.device_put(np.ones(4, np.float32))
    found = added(np.ones(4, np.float32), state)
    assert np.asarray(found).tolist() == [2, 2, 2, 2] and state.is_deleted()
