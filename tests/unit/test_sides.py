"""Who is compared: which server stands for which backend and view, and which two compute the same."""

from dataclasses import replace

import pytest

from pytest_multiitem.adapters.base import Engine, choose_engine
from pytest_multiitem.comparison.measuring.sides import missing, serial_of, sides_of
from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.servers.process import LaunchSpec
from pytest_multiitem.settings.resolve import resolve


def sides(engine="embedded", **given):
    settings = resolve({f"multiitem_{name}": value for name, value in given.items()}, {}, {})
    return sides_of(settings, choose_engine(engine))


def by_label(found):
    return {side.label: side for side in found}


def test_the_embedded_pair_has_a_frozen_server_in_both_views():
    found = by_label(sides())
    assert list(found) == ["pytorch portable+best_native", "jax portable", "jax best_native"]
    chunks = {label: side.profile.chunk_size for label, side in found.items()}
    assert chunks == {"pytorch portable+best_native": 500, "jax portable": 500, "jax best_native": 64}
    assert {side.profile.mask_impl for side in found.values()} == {"segment"}
    ports = {label: side.engine.launch(side.profile, side.settings).preferred_port for label, side in found.items()}
    assert ports == {"jax portable": 30010, "jax best_native": 30011, "pytorch portable+best_native": 30020}


def test_a_backend_that_only_an_adapter_knows_has_its_sides():
    class Mine(Engine):
        name, backends, masks = "mine", ("rocm",), ("flex",)

        def launch(self, profile, settings):
            return LaunchSpec(profile.label, ("serve", profile.backend, profile.mask_impl))

    settings = replace(resolve({}, {}, {}), engine="mine", backend=("rocm",), mask_impl=("flex",))
    (side,) = sides_of(settings, Mine())
    assert (side.label, side.profile.mask_impl) == ("rocm portable+best_native", "flex")


def test_what_a_server_splits_no_more_than_another_is_computed_once():
    found = by_label(sides())
    portable, native = found["jax portable"], found["jax best_native"]
    for size in (1, 32, 64):
        assert portable.executes(size) == native.executes(size) is not None
    assert native.executes(65) is None and portable.executes(65) is not None
    assert found["pytorch portable+best_native"].executes(8) != portable.executes(8)
    assert portable.executes(8) != portable.executes(16)
    dense = by_label(sides(mask_impl="dense"))["jax portable"]
    assert dense.executes(8) != portable.executes(8)


def test_of_a_server_that_runs_already_nothing_is_assumed():
    found = by_label(sides(compare_urls="jax@portable=http://127.0.0.1:1,jax@best_native=http://127.0.0.1:2"))
    assert list(found) == ["jax portable", "jax best_native"]
    assert {side.executes(1) for side in found.values()} == {None}
    (both,) = sides(compare_urls="jax=http://127.0.0.1:1")
    assert both.views == ("portable", "best_native") and both.url == "http://127.0.0.1:1"


@pytest.mark.parametrize("name", ["mask_impl", "server_chunk_size"])
def test_what_the_user_chooses_wins_over_the_views_profile(name):
    value, expected = {"mask_impl": ("dense", "dense"), "server_chunk_size": ("8", 8)}[name]
    attribute = {"mask_impl": "mask_impl", "server_chunk_size": "chunk_size"}[name]
    assert {getattr(side.profile, attribute) for side in sides(**{name: value})} == {expected}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mask_impl": "dense,segment"}, "runs one mask implementation"),
        ({"server_chunk_size": "2,0"}, "runs one server chunk size"),
        ({"models": "a,b"}, "the comparison is of one model"),
        ({"multi_url": "http://127.0.0.1:1"}, "name it: --multiitem-compare-urls pytorch=http://127.0.0.1:1"),
        ({"backend": "jax", "compare_urls": "pytorch=http://127.0.0.1:1"}, "names pytorch, which --backend leaves out"),
    ],
)
def test_what_no_side_can_be_is_refused(given, words):
    with pytest.raises(UsageError) as caught:
        sides(**given)
    assert words in str(caught.value)


def test_a_backend_without_a_side_is_missing_with_its_reason():
    settings = resolve({"multiitem_compare_urls": "jax=http://127.0.0.1:1"}, {}, {})
    found = sides_of(settings, choose_engine("embedded"))
    assert missing(settings, found) == {"pytorch": "no server of pytorch was given to --multiitem-compare-urls"}
    assert missing(settings, sides()) == {}


def test_prices_are_by_backend_or_for_all():
    assert {side.cost_per_hour for side in sides(cost_per_hour="2.5")} == {2.5}
    found = by_label(sides(cost_per_hour="jax=3,pytorch=1"))
    assert found["jax portable"].cost_per_hour == 3 and found["pytorch portable+best_native"].cost_per_hour == 1
    assert {side.cost_per_hour for side in sides()} == {None}


def test_the_serial_baseline_of_a_side():
    portable = by_label(sides())["jax portable"]
    assert serial_of(portable).profile.role == "serial" and serial_of(portable).profile.backend == "jax"
    (attached,) = sides(compare_urls="jax=http://127.0.0.1:1", backend="jax")
    with pytest.raises(EngineUnavailable, match="--serial-url"):
        serial_of(attached)
