"""Does the price on spikes bring synaptic operations down, and at what accuracy?"""

__all__: list[str] = []
