"""How HTML pages are filled in: everything escaped, a missing value is an error.

What stands on a page is the business of who writes it.
"""

from __future__ import annotations

from pathlib import Path

import jinja2


def page_templates(*folders: Path) -> jinja2.Environment:
    """The templates of some folders, the first that has a name wins."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
