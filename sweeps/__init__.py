"""Many steps at once: targets, their parameters and hardware profiles become rows of a table, as far as they come."""

from .point import Point, Task
from .row import Failure, Figures, Row
from .run import Sweep, sweep

__all__ = ["Failure", "Figures", "Point", "Row", "Sweep", "Task", "sweep"]
