"""All that is SpikingJelly's: neuron families, step modes, memory, surrogates, backends."""
