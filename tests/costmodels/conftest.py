"""Lets the tests of this folder import its two helpers, `opbuilder` and `oprecorder`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
