"""All that is SpikingJelly's: neuron families, step modes, memory, surrogates, backends."""

from sj_shortcut.neurons.backend import (
    NeuronBackend,
    NeuronBackends,
    has_cupy_backend,
    set_backend,
)
from sj_shortcut.neurons.families import SPIKING_FAMILIES, is_spiking_neuron
from sj_shortcut.neurons.fused import potentials_of
from sj_shortcut.neurons.memory import forget_reset_cache, reset_states
from sj_shortcut.neurons.step_modes import (
    FOLDING,
    LOOPING,
    TIME_LAST,
    StepMode,
    layer_classes,
    step_mode_of,
    step_mode_owner,
    time_loop,
)
from sj_shortcut.neurons.surrogates import AliveCounter

__all__ = [
    "AliveCounter",
    "FOLDING",
    "LOOPING",
    "NeuronBackend",
    "NeuronBackends",
    "SPIKING_FAMILIES",
    "StepMode",
    "TIME_LAST",
    "forget_reset_cache",
    "has_cupy_backend",
    "is_spiking_neuron",
    "layer_classes",
    "potentials_of",
    "reset_states",
    "set_backend",
    "step_mode_of",
    "step_mode_owner",
    "time_loop",
]
