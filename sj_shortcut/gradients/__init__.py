"""Measure gradients: a model in, a tidy frame out, one row a measurement."""

from sj_shortcut.gradients.flow import gradient_flow
from sj_shortcut.gradients.histogram import gradient_histogram
from sj_shortcut.gradients.recorder import GradientRecorder
from sj_shortcut.gradients.summary import summarize
from sj_shortcut.gradients.when import every_steps, log_spaced_steps

__all__ = [
    "GradientRecorder",
    "every_steps",
    "gradient_flow",
    "gradient_histogram",
    "log_spaced_steps",
    "summarize",
]
