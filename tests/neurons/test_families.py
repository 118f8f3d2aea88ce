import inspect

import pytest
from spikingjelly.activation_based import layer, neuron
from torch import nn

from sj_shortcut.neurons.families import is_spiking_neuron
from tests.neurons.nets import NonSpikingLIF, Readout

# Every class of both generations, decided by hand: a class that is in none must be thought about.
SPIKING = """
    ActivationAwareIFNode AdaptBaseNode BaseNode CUBALIFNode ComplementaryLIFNode DSRIFNode
    DSRLIFNode EIFNode FewSpikeNode FlexSN GatedLIFNode HGNode HalfThresholdIFNode IFNode
    ILCBaseNode ILCCUBALIFNode ILCIFNode ILCLIFNode ILIFNode IzhikevichNode KLIFNode LIAFNode
    LIFNode MPBNBaseNode MPBNLIFNode MaskedPSN NoisyBaseNode NoisyCUBALIFNode NoisyILCBaseNode
    NoisyILCCUBALIFNode OTTTLIFNode OutlierAwareThresholdNode PSN ParametricLIFNode QIFNode RAFNode
    SLTTLIFNode STBIFNode SimpleBaseNode SimpleIFNode SimpleLIFNode SlidingPSN TernaryIFNode
    TernaryLIFNode
""".split()
NOT_SPIKING = """
    NoisyNonSpikingBaseNode NoisyNonSpikingIFNode NonSpikingBaseNode NonSpikingIFNode
    NonSpikingLIFNode
""".split()
INSTALLED = {
    name: cls
    for name, cls in inspect.getmembers(neuron, inspect.isclass)
    if issubclass(cls, nn.Module) and cls.__module__.startswith(neuron.__name__)
}


@pytest.mark.parametrize("name", sorted(INSTALLED))
def test_every_class_of_the_installed_generation_is_decided(name):
    assert (name in SPIKING) != (name in NOT_SPIKING)
    # What a class is does not hang on how its instances are made, and some are hard to make.
    bare = INSTALLED[name].__new__(INSTALLED[name])
    assert is_spiking_neuron(bare) == (name in SPIKING)


def test_the_installed_classes_were_found():
    assert len(INSTALLED) >= 10


def test_users_subclasses_count_and_non_spiking_ones_do_not():
    assert is_spiking_neuron(Readout())
    assert not is_spiking_neuron(NonSpikingLIF())


def test_other_modules_are_no_neurons():
    model = nn.Sequential(layer.Linear(2, 2), neuron.LIFNode(), layer.Dropout(), nn.ReLU())
    assert [name for name, m in model.named_modules() if is_spiking_neuron(m)] == ["1"]
    assert "1.surrogate_function" in dict(model.named_modules())


def test_extra_types_count_whatever_they_are_called():
    assert is_spiking_neuron(nn.ReLU(), extra=(nn.ReLU,))
    assert is_spiking_neuron(NonSpikingLIF(), extra=(NonSpikingLIF,))
    assert not is_spiking_neuron(nn.ReLU(), extra=(nn.GELU,))
