import torch
from spikingjelly.activation_based import neuron
from torch import nn

from sj_shortcut.neurons.backend_rows import NeuronBackend, NeuronBackends, find_neurons, owner_of
from tests.neurons.nets import Block, on_fake_cuda


def test_rows_print_as_an_aligned_table():
    rows = NeuronBackends(
        [
            NeuronBackend("layer1.0.sn1", "LIFNode", "torch", "as asked"),
            NeuronBackend("sn", "ParametricLIFNode", "cupy", "on cuda:0"),
        ]
    )
    assert repr(rows) == str(rows)
    assert repr(rows).splitlines() == [
        "name          module             backend  note",
        "layer1.0.sn1  LIFNode            torch    as asked",
        "sn            ParametricLIFNode  cupy     on cuda:0",
    ]


def test_rows_are_a_table_in_a_notebook():
    rows = NeuronBackends([NeuronBackend("", "LIFNode", "torch", "a <b> & " + 200 * "long ")])
    html = rows._repr_html_()
    assert html.count("<tr") == 2 and "<th>backend</th>" in html
    assert "(model)" in html and "<td>LIFNode</td>" in html
    assert "a &lt;b&gt; &amp; " in html and html.count("long") == 200
    assert NeuronBackends()._repr_html_().count("<tr") == 1


def test_the_device_of_a_neuron_is_that_of_the_weights_before_it():
    model = nn.Sequential(neuron.IFNode(), on_fake_cuda(Block()), neuron.IFNode(), Block())
    found = {each.path: each.device.type for each in find_neurons(model)}
    assert found == {"0": "cuda", "1.sn": "cuda", "2": "cuda", "3.sn": "cpu"}
    (alone,) = find_neurons(neuron.IFNode())
    assert (alone.path, alone.device, alone.label) == ("", torch.device("cpu"), "model (IFNode)")


def test_the_owner_of_a_method_is_the_nearest_class():
    class Own(neuron.LIFNode):
        def single_step_forward(self, x):
            return x

    class Child(Own):
        pass

    assert owner_of(Child, ("single_step_forward",)) is Own
    assert owner_of(Child, ("no_such_method", "forward")).__module__.startswith("spikingjelly")
