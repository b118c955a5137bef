"""An address may end in the endpoint's own path wherever a server's address is taken."""

import pytest

from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.targets.attach import base_url
from pytest_multiitem.transport.address import Address

PLAIN = "http://127.0.0.1:30010"


@pytest.mark.parametrize("end", ["", "/", "/v1/score", "/v1/score/"])
def test_the_endpoint_is_no_part_of_an_address(end):
    assert Address(PLAIN + end) == base_url(PLAIN + end) == PLAIN
    assert Address(f"{PLAIN}/prefix{end}") == f"{PLAIN}/prefix"
    url = f"{PLAIN}{end}"
    given = {"multi_url": url, "serial_url": url, "compare_urls": f"jax={url},pytorch@portable={url}"}
    settings = resolve({f"multiitem_{name}": value for name, value in given.items()}, {}, {})
    assert (settings.multi_url, settings.serial_url) == (PLAIN, PLAIN)
    assert dict(settings.compare_urls) == {"jax": PLAIN, "pytorch@portable": PLAIN}


@pytest.mark.parametrize("end", ["/v1", "/v1/scores", "/v1/score/x"])
def test_another_path_is(end):
    assert Address(PLAIN + end) == PLAIN + end
