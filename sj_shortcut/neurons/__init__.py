"""All that is SpikingJelly's: neurons, step modes, memory, surrogates, operations, backends."""

from sj_shortcut.neurons.backend import (
    NeuronBackend,
    NeuronBackends,
    has_cupy_backend,
    set_backend,
)
from sj_shortcut.neurons.families import SPIKING_FAMILIES, is_spiking_neuron
from sj_shortcut.neurons.fused import potentials_of
from sj_shortcut.neurons.memory import Resettable, forget_reset_cache, has_memory, reset_states
from sj_shortcut.neurons.operations import Operations, has_op_counter, operations_of
from sj_shortcut.neurons.step_modes import StepMode, has_step_mode, set_step_mode, step_mode_of
from sj_shortcut.neurons.surrogates import AliveCounter

__all__ = [
    "AliveCounter",
    "NeuronBackend",
    "NeuronBackends",
    "Operations",
    "Resettable",
    "SPIKING_FAMILIES",
    "StepMode",
    "forget_reset_cache",
    "has_cupy_backend",
    "has_memory",
    "has_op_counter",
    "has_step_mode",
    "is_spiking_neuron",
    "operations_of",
    "potentials_of",
    "reset_states",
    "set_backend",
    "set_step_mode",
    "step_mode_of",
]
