"""The table of formats: the name that ``--format`` takes -> the function that writes a check in it."""

from __future__ import annotations

from collections.abc import Callable

from .concise import to_concise
from .findings import Checked
from .full import to_full
from .github import to_github
from .gitlab import to_gitlab
from .json import to_json
from .junit import to_junit
from .markdown import to_markdown
from .sarif import to_sarif

FORMATS: dict[str, Callable[[Checked], str]] = {
    "full": to_full,
    "concise": to_concise,
    "json": to_json,
    "markdown": to_markdown,
    "github": to_github,
    "gitlab": to_gitlab,
    "sarif": to_sarif,
    "junit": to_junit,
}
