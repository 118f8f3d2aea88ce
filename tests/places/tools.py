"""What several tests of places use."""

from torch import Tensor, nn

from sj_shortcut import shortcut_branches, wrap_with_shortcuts
from sj_shortcut.neurons import is_spiking_neuron
from sj_shortcut.places.axes import find_layouts, read_output, read_times
from sj_shortcut.places.example_pass import run_pass, untouched

OWN_FEATURE = "the classifier's own feature: left out unless named"


def chosen(model: nn.Module, at: object, **kwargs: object) -> list[str]:
    return list(shortcut_branches(wrap_with_shortcuts(model, at, **kwargs)))


def look(model: nn.Module, x: Tensor, names: list[str]):
    with untouched(model):
        seen = run_pass(model, (x,), {}, is_spiking_neuron, names)
        times = read_times(seen, is_spiking_neuron)
        axes = read_output(seen, seen.output, times)
        return axes, find_layouts(seen, axes, times, names), times
