"""Baseline, budgets, findings: what CI runs.

A report becomes a *snapshot*, a snapshot is compared with the one that the baseline holds, and what is worse than was
agreed on becomes a *finding* with its cause, in one of several formats. Nothing here traces; the commands do.
"""

from .config import Config, Target
from .findings import Checked, Finding, Outcome, judge
from .formats import FORMATS
from .snapshot import Snapshot, snapshot

__all__ = ["FORMATS", "Checked", "Config", "Finding", "Outcome", "Snapshot", "Target", "judge", "snapshot"]
