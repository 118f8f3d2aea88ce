"""What one look at a running model shows."""

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

from sj_shortcut.places.looking import look_at, steps_in_one_call
from tests.nets.small import CLASSES, N, Net, T, images
from tests.nets.written import HelperBesideAndFirst, K
from tests.nets.zoo import conv_net, lif

NAMES = ["layer1.1", "layer2.1", "layer3.1"]


@pytest.mark.parametrize(("mode", "axes"), [("m", "TNC"), ("s", "NC")])
def test_a_look_tells_order_shapes_axes_and_classes(mode, axes):
    x = images() if mode == "m" else images()[0]
    look = look_at(Net(mode), (x,), {}, NAMES)
    assert [name for name in look.order if name in NAMES] == NAMES
    assert {str(layout) for layout in look.layouts.values()} == {axes}
    assert list(look.layouts) == NAMES
    assert [look.shapes[name][-1] for name in NAMES] == [16, 12, 6]
    assert [look.weights_before[name] for name in NAMES] == [1, 2, 3]
    assert look.weights == ("layer1.0", "layer2.0", "layer3.0", "fc")
    assert (look.main, look.num_classes, look.refusal, look.repeated) == (0, CLASSES, "", {})
    assert all(look.leads_to_output(name) for name in NAMES) and not look.unbatched


class Aside(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layer1(x)
        return self.layer2(x), self.fc(x[..., :6]).mean(0)


def test_what_the_logits_do_not_depend_on_is_known():
    look = look_at(Aside(), (images(),), {}, NAMES, num_classes=CLASSES)
    assert look.main == 1 and look.num_classes == CLASSES
    assert look.leads_to_output("layer1.1") and not look.leads_to_output("layer2.1")
    assert "layer2.1" in look.reach[0] and "layer3.1" not in look.order
    assert look.weights == ("layer1.0", "fc")


def test_of_several_logits_the_deepest_are_the_main_ones_and_all_are_known():
    model, x = HelperBesideAndFirst(), torch.rand(3, 2, 3, 8, 8)
    look = look_at(model, (x,), {}, ["b.2.2", "helper.2"])
    assert (look.main, list(look.logits), look.num_classes) == (1, [0, 1], K)
    assert look.leads_to_logits("helper.2") and not look.leads_to_output("helper.2")
    assert look.leads_to_output("b.2.2")
    assert {str(layout) for layout in look.layouts.values()} == {"TNCHW"}


class Twice(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(x))
        x = nn.functional.pad(x, (0, 4))
        return self.fc(self.layer3(self.layer2(x)))


def test_a_module_shared_between_depths_is_told():
    look = look_at(Twice(), (images(),), {}, NAMES)
    assert look.calls["layer2.1"] == 2
    assert "a module shared between depths has no one depth" in look.repeated["layer2.1"]
    assert "layer1.1" not in look.repeated and "layer3.1" not in look.repeated


class Encodes(nn.Module):
    """Loops over time, and begins each step with a spiking layer, before all weights."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.lif = lif(), lif()
        self.first, self.last = nn.Linear(8, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return sum(self.last(self.lif(self.first(self.encode(x)))) for _ in range(T)) / T


def test_what_a_loop_begins_with_is_not_shared_between_depths():
    look = look_at(Encodes(), (torch.rand(N, 8),), {}, ["encode", "lif"])
    assert look.repeated == {}
    assert {name: str(layout) for name, layout in look.layouts.items()} == {
        "encode": "NC",
        "lif": "NC",
    }


def test_a_loop_over_time_is_no_sharing():
    class Loop(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([super(Loop, self).forward(step) for step in x]).mean(0)

    look = look_at(Loop("s"), (images(),), {}, NAMES)
    assert look.calls["layer2.1"] == T and look.repeated == {}
    assert {str(layout) for layout in look.layouts.values()} == {"NC"}


def test_dense_outputs_are_refused():
    class Dense(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mean(0).unsqueeze(-1).expand(-1, -1, 5).transpose(1, 2)

    assert "dense" in look_at(Dense(), (images(),), {}, NAMES).refusal


def test_lazy_layers_stay_lazy():
    model = nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), lif(), nn.LazyLinear(3))
    look = look_at(model, (images()[0],), {}, ["2"])
    assert (look.shapes["2"], look.num_classes) == ((N, 6), 3)
    assert isinstance(model[0].weight, nn.UninitializedParameter)
    assert model[1].has_uninitialized_params()


def test_a_convolution_that_takes_the_input_for_one_sample_is_noticed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), lif(), nn.Flatten(1), nn.Linear(2, 2))
    assert look_at(model, (torch.rand(3, 4, 3),), {}, []).unbatched


def test_errors_of_the_model_come_through():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        look_at(Net(), (torch.rand(T, N, 7),), {}, NAMES)


def test_a_look_shows_axes_where_no_spike_gets_through():
    model = nn.Sequential(layer.Linear(8, 6), layer.BatchNorm1d(6), neuron.LIFNode(),
                          layer.Linear(6, 6, bias=False), layer.BatchNorm1d(6), neuron.LIFNode(),
                          layer.Linear(6, 3))  # fmt: skip
    with torch.no_grad():
        model[0].bias.fill_(-100)
    look = look_at(model, (images()[0],), {}, ["2", "5"])
    assert {str(layout) for layout in look.layouts.values()} == {"NC"}
    assert all(layout.sure for layout in look.layouts.values())
    assert torch.equal(model[1].running_mean, torch.zeros(6))


def test_whether_one_call_has_several_steps():
    assert steps_in_one_call(Net("m"), images()) is True
    assert steps_in_one_call(Net("s"), images()[0]) is False
    assert steps_in_one_call(Net("m"), torch.rand(T, N, 7)) is None
    assert steps_in_one_call(conv_net(), torch.rand(3, 8, 8)) is None  # taken for one sample
