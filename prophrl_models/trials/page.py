"""What all HTML reports share: how templates are read, and how a page and its facts come onto the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from prophrl_models.data.files import write_json

HOUSE = Path(__file__).with_name("resources")
"""The house's own style sheets."""


def environment(resources: Path) -> jinja2.Environment:
    """Templates of a folder: everything is escaped, and an unknown name is an error instead of a gap in the page."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(resources),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style(*sheets: Path) -> Markup:
    """Style sheets one after the other, for a page that carries them inside."""
    return Markup("".join(sheet.read_text(encoding="utf-8") for sheet in sheets))


def plain(value: Any) -> Any:
    """JSON's own types, null for NaN and infinity, which JSON lacks."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def write_page(page: Path, html: str, facts_file: Path, facts: Any) -> Path:
    """Write a report for programs and for people; a reader sees the earlier page or the new one, never a part.

    Returns:
        ``page``.
    """
    write_json(facts_file, plain(facts))
    temporary = page.with_name(f".{page.name}.{os.getpid()}")
    temporary.write_text(html, encoding="utf-8")
    os.replace(temporary, page)
    return page
