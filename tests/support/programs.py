"""Programs of `support` that tests run in a process of their own, and what they print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def printed(name: str) -> dict[str, Any]:
    """The JSON object that the program of that file name prints; its errors are the test's."""
    program = Path(__file__).parent / name
    ran = subprocess.run([sys.executable, "-W", "ignore", str(program)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found
