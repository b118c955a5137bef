"""Markdown pages from templates: the skeleton stands in Jinja2, tables and facts come from Python.

What a template puts in is escaped, unless it is `blocks.Markdown`; a macro's output is text to Jinja2, and is named so
with the filter ``markdown``.
"""

from __future__ import annotations

import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from pytest_multiitem.comparison.decision.recommendation import display_name
from pytest_multiitem.reports.blocks import (
    Markdown,
    bullets,
    cell,
    code,
    escape,
    header,
    markdown,
    markdown_table,
    row,
    section,
    strong,
)


def _shown(value: object) -> Markdown:
    return escape(value if isinstance(value, str) else cell(value))


_PAGES = Environment(
    loader=PackageLoader("pytest_multiitem.reports"),
    autoescape=False,
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.globals |= {"section": section, "header": header, "row": row}
_PAGES.filters |= {
    "bullets": bullets,
    "code": code,
    "markdown": markdown,
    "strong": strong,
    "table": lambda content: markdown_table(*content),
    "display_name": display_name,
}


def page(template: str, **values: object) -> str:
    """A page: blocks, with one empty line between them."""
    text = _PAGES.get_template(f"{template}.md.j2").render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
