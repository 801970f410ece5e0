"""HTML pages from templates of Jinja."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2


def render_page(template: Path, context: Mapping[str, Any], filters: Mapping[str, Callable] | None = None) -> str:
    """Render a page. If its content security policy names ``script_hash``, the page runs the last script in it and no other.

    Args:
        template: The file; every value in it is escaped.
        context: Values by name.
        filters: Filters by name.

    Raises:
        jinja2.UndefinedError: If the template names a value that is not in the context.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    page = environment.get_template(template.name).render(context, script_hash="SCRIPT_HASH")
    page = page.encode("utf-8", "replace").decode()  # Python reads file names of other bytes as lone surrogates
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page.replace("SCRIPT_HASH", f"sha256-{digest}", 1)
