"""Where heads live in a model, what wrapping says of them, and that removal leaves nothing."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn

from sj_shortcut import remove_shortcuts, shortcut_branches, wrap_with_shortcuts
from sj_shortcut.shortcuts.hooks import forwards_of
from tests.calls import calls_in
from tests.nets.small import Net, images
from tests.nets.zoo import lif, nested


def homes(model: nn.Module) -> dict[str, str]:
    return {name: ".".join((name, *path)) for name, path in forwards_of(model).homes.items()}


def test_a_head_lives_in_the_last_neuron_inside_its_point():
    model = wrap_with_shortcuts(nested(), ["0.0.2", "0", "1.0"])
    assert homes(model) == {
        "0.0.2": "0.0.2.shortcut_head",
        "0": "0.1.2.shortcut_head",
        "1.0": "1.0.2.shortcut_head",
    }
    for name, home in homes(model).items():
        assert model.get_submodule(home) is shortcut_branches(model)[name]
    assert "0.1.2.shortcut_head.head.linear.weight" in model.state_dict()


class Residual(nn.Sequential):
    """Adds its input, so that its output is not that of its last neuron."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def test_a_block_and_its_last_neuron_share_a_home():
    block = Residual(layer.Linear(8, 8), lif())
    model = nn.Sequential(block, layer.Linear(8, 6), lif(), layer.Linear(6, 4))
    wrap_with_shortcuts(model, ["0.1", "0"])
    assert homes(model) == {"0.1": "0.1.shortcut_head", "0": "0.1.shortcut_head_"}
    functional.set_step_mode(model, "m")
    remove_shortcuts(model)
    assert not [name for name in model.state_dict() if "shortcut" in name]


def test_without_neurons_of_its_own_a_head_lives_in_the_last_leaf():
    class Fires(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.norm = nn.Identity(), nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.scale(x)).relu()

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = Fires()

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(x)

    def make() -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 6), Holder(), nn.Linear(6, 6), lif(), nn.Linear(6, 3))

    model = wrap_with_shortcuts(make(), "1", neuron_types=(Fires,))
    assert homes(model) == {"1": "1.inside.shortcut_head"}  # the neuron, whatever it holds


def test_an_attribute_of_the_name_is_not_overwritten():
    model = Net()
    model.layer2[1].shortcut_head = "mine"
    before = repr(model)
    with pytest.raises(ValueError, match="'layer2.1' already has an attribute 'shortcut_head'"):
        wrap_with_shortcuts(model)
    assert repr(model) == before and not model._forward_hooks  # the first head is gone as well
    assert not any(module._forward_hooks for module in model.modules())
    assert model.layer2[1].shortcut_head == "mine"


def test_it_says_where_heads_are_if_asked(capsys):
    wrap_with_shortcuts(Net())
    assert capsys.readouterr().out == ""
    model = wrap_with_shortcuts(Net(), verbose=True)
    heads = sum(p.numel() for b in shortcut_branches(model).values() for p in b.parameters())
    own = sum(p.numel() for p in model.parameters()) - heads
    assert capsys.readouterr().out == (
        f"shortcut heads: 2, at 'layer1.1', 'layer2.1', of {heads} parameters together "
        f"({100 * heads / own:.1f} % of the model's {own})\n"
    )


@pytest.mark.parametrize("at", ["all", "auto"])
def test_wrapping_grows_with_depth_and_no_faster(at):
    def calls(layers: int) -> int:
        parts = [[layer.Linear(4, 4), lif()] for _ in range(layers)]
        model = nn.Sequential(*[module for part in parts for module in part], layer.Linear(4, 3))
        functional.set_step_mode(model, "m")
        return calls_in(lambda: wrap_with_shortcuts(model, at)).total()

    calls(4)  # what is done once in a process
    few, more, many = (calls(layers) for layers in (12, 24, 48))
    assert many - more < 2.1 * (more - few)


def test_removal_leaves_no_hook_and_no_key():
    model = Net()
    before, keys, due = repr(model), list(model.state_dict()), model(x := images())
    functional.reset_net(model)
    remove_shortcuts(wrap_with_shortcuts(model))
    assert (repr(model), list(model.state_dict())) == (before, keys)
    for module in model.modules():
        tables = (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._forward_hooks_with_kwargs,
            module._forward_pre_hooks_with_kwargs,
        )
        assert not any(tables)
    assert torch.equal(model(x), due)


def test_removal_asks_for_the_wrapped_model_itself():
    model = wrap_with_shortcuts(Net())
    with pytest.raises(ValueError, match="Its submodule '0' has: pass that"):
        remove_shortcuts(nn.Sequential(model))
    with pytest.raises(ValueError, match="a part of a wrapped model: pass the whole"):
        remove_shortcuts(model.layer1)
    with pytest.raises(ValueError, match="Sequential has no shortcuts to remove"):
        remove_shortcuts(nn.Sequential(layer.Linear(2, 2)))
