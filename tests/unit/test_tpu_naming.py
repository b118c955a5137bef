"""How kernels, cases and chips are named on a command line."""

from __future__ import annotations

import functools

import pytest

from pytest_multiitem.compile_gates.shapes import parse_shape, shown
from pytest_multiitem.errors import UsageError
from pytest_multiitem.settings.chips import CHIPS, DEFAULT_CHIPS, chip_names
from pytest_multiitem.settings.kernels import name_of, parse_kernel
from pytest_multiitem.settings.resolve import resolve


@pytest.mark.parametrize("text", ["kernels:case", "a.b_c.d:case_1"])
def test_a_kernel_is_a_function_of_a_module(text: str) -> None:
    assert parse_kernel(text) == text == name_of(text)


@pytest.mark.parametrize(
    "text", ["kernels", "kernels:", ":case", "kernels:case.inner", "a b:case", "kernels:case:x", ""]
)
def test_what_is_no_kernel_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected MODULE:FUNCTION, such as kernels:segment_case$"):
        parse_kernel(text)


@pytest.mark.parametrize("text", ["kernels.py:case", "./sub/kernels.py:case", "sub/kernels:case"])
def test_a_file_is_told_its_module(text: str) -> None:
    named = "sub.kernels" if "sub" in text else "kernels"
    with pytest.raises(ValueError, match=f"name the module, not its file: {named}:case"):
        parse_kernel(text)


def test_a_function_is_named_by_where_it_is_defined() -> None:
    assert name_of(parse_shape) == "pytest_multiitem.compile_gates.shapes:parse_shape"


@pytest.mark.parametrize("kernel", [lambda: None, functools.partial(parse_shape), DEFAULT_CHIPS])
def test_what_another_process_cannot_import_is_refused(kernel: object) -> None:
    with pytest.raises(UsageError, match="define it at the top level of a module"):
        name_of(kernel)  # type: ignore[arg-type]


def test_a_wrong_name_is_an_error_of_the_user() -> None:
    with pytest.raises(UsageError, match="kernel 'kernels' is not valid: expected MODULE:FUNCTION"):
        name_of("kernels")


@pytest.mark.parametrize(
    ("text", "case"),
    [
        ("rows=512", {"rows": 512}),
        ("rows=512, heads=8 ,dtype=bfloat16", {"rows": 512, "heads": 8, "dtype": "bfloat16"}),
        ("offset=-1", {"offset": -1}),
        ("dtype=jnp.float32", {"dtype": "jnp.float32"}),
    ],
)
def test_a_shape_is_names_with_values(text: str, case: dict[str, int | str]) -> None:
    assert parse_shape(text) == case
    assert parse_shape(shown(case)) == case


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is not of that form"),
        ("512", "'512' is not of that form"),
        ("rows=512,", "'' is not of that form"),
        ("1rows=512", "'1rows=512' is not of that form"),
        ("rows=512,rows=4", "rows is given twice"),
        ("rows=", "rows= has no usable value"),
        ("rows=8x128", "rows=8x128 has no usable value"),
        ("rows=1.5", "rows=1.5 has no usable value"),
    ],
)
def test_what_is_no_shape_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_shape(text)
    assert said in str(caught.value)


def test_no_arguments_are_the_defaults() -> None:
    assert shown({}) == "defaults"


def test_chips_are_known_by_name() -> None:
    assert DEFAULT_CHIPS == ("v6e", "v5e", "v5p") and set(DEFAULT_CHIPS) <= set(CHIPS)
    assert chip_names("v5e,v5p") == ("v5e", "v5p")
    with pytest.raises(ValueError, match=r"expected one of v4, v5e, .* \(did you mean 'v6e'\?\)"):
        chip_names("v6")


def test_settings_of_the_gate(tmp_path) -> None:
    settings = resolve({}, {}, {})
    assert settings.tpu_kernel == "pytest_multiitem.engine.segment_kernel:tpu_case"
    assert (settings.tpu_chips, settings.tpu_tier, settings.tpu_timeout) == (DEFAULT_CHIPS, "auto", 180.0)
    assert settings.tpu_libtpu is None
    (tmp_path / "libtpu").mkdir()
    given = {"MULTI_ITEM_TPU_CHIPS": "v4, v6e", "MULTI_ITEM_TPU_LIBTPU": str(tmp_path), "MULTI_ITEM_TPU_TIMEOUT": "9"}
    settings = resolve({}, {}, given)
    assert (settings.tpu_chips, settings.tpu_libtpu, settings.tpu_timeout) == (("v4", "v6e"), tmp_path, 9.0)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("tpu_kernel", "kernels", "expected MODULE:FUNCTION"),
        ("tpu_chips", "v6e,v6", "did you mean 'v6e'?"),
        ("tpu_tier", "compiles", "did you mean 'compile'?"),
        ("tpu_timeout", "0", "a number of seconds above 0"),
        ("tpu_libtpu", "/nowhere", "expected a directory that holds libtpu"),
    ],
)
def test_a_wrong_setting_is_refused(name: str, value: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve({f"multiitem_{name}": value}, {}, {})
    assert said in str(caught.value)
