"""Count spikes and what they cost: a model in, a tidy frame out, one row a layer."""

from sj_shortcut.spikes.compare import compare_spikes
from sj_shortcut.spikes.report import spike_report

__all__ = ["compare_spikes", "spike_report"]
