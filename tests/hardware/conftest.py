"""Lets the tests of this folder import `opbuilder`, which lies with the tests of the cost models."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "costmodels"))
