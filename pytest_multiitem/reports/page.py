"""Markdown pages from templates: the skeleton stands in Jinja2, tables and facts come from Python."""

from __future__ import annotations

import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from pytest_multiitem.comparison.decision.recommendation import display_name
from pytest_multiitem.reports.blocks import bullets, escape, header, markdown_table, row, section

_PAGES = Environment(
    loader=PackageLoader("pytest_multiitem.reports"),
    autoescape=False,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.globals |= {"section": section, "header": header, "row": row}
_PAGES.filters |= {
    "escape": escape,
    "bullets": bullets,
    "table": lambda content: markdown_table(*content),
    "display_name": display_name,
}


def page(template: str, **values: object) -> str:
    """A page: blocks, with one empty line between them."""
    text = _PAGES.get_template(f"{template}.md.j2").render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
