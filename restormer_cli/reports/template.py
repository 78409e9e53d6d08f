"""Fill the template of an HTML page that has the viewer with its slider before and after.

A page is one file without external resources. `viewer.js` and `viewer.css` come before the script
and the style of a page, which use their functions and classes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

from .._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

ASSETS = Path(__file__).parent / "assets"


class Page(NamedTuple):
    """An HTML page and the security policy that it states."""

    html: str
    policy: str


def fill_page(path: Path, data: Mapping[str, Any], **sources: str) -> Page:
    """Return a page whose security policy allows only its own style and script and `sources`.

    Args:
        path: of the page's assets without their suffix: `.html`, `.css` and `.js` are added.
        data: read by the script; "title" is also the title of the page.
        sources: permitted origins by directive with underscores, such as `img_src="data:"`.
    """
    body, style, script = (_asset(path.with_suffix(s)) for s in (".html", ".css", ".js"))
    style = _asset(ASSETS / "viewer.css") + style
    script = _asset(ASSETS / "viewer.js") + script
    directives = {
        "default-src": "'none'",
        **{name.replace("_", "-"): value for name, value in sources.items()},
        "style-src": _csp_hash(style),
        "script-src": _csp_hash(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    policy = "; ".join(f"{name} {value}" for name, value in directives.items())
    html = Template(_asset(ASSETS / "page.html")).substitute(
        title=data["title"],
        policy=policy,
        version=__version__,
        style=style,
        body=body,
        viewer=_asset(ASSETS / "viewer.html"),
        # Without "<", no tag or comment can end the script element that contains the data.
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        script=script,
    )
    return Page(html, policy)


def _asset(path: Path) -> str:
    return path.read_text("utf-8")


def _csp_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
