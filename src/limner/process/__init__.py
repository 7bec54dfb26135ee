"""The mathematics of noising: schedules (alpha, sigma), targets (a, b) and draws of time. Start with `schedules.py`."""

from limner.process.schedules import PROCESSES, Process, RectifiedFlow
from limner.process.targets import TARGETS, Target
from limner.process.times import TIMES, Times

__all__ = ["PROCESSES", "TARGETS", "TIMES", "Process", "RectifiedFlow", "Target", "Times"]
