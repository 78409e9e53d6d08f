"""Read the data in a report page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def page_data(page: str) -> dict[str, Any]:
    """Return the JSON data of a page."""
    (data,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', Path(page).read_text("utf-8")
    )
    return dict(json.loads(data))
