"""Networks as people write them: heads where they belong, on the right axes, gone without trace."""

from functools import partial
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from sj_shortcut import (
    ConstantSchedule,
    ShortcutHead,
    ShortcutLoss,
    remove_shortcuts,
    shortcut_branches,
    shortcut_logits,
    shortcuts_enabled,
    wrap_with_shortcuts,
)
from sj_shortcut.torch_model import first_tensor, map_tensors
from tests.nets.written import REFUSED, TOLD, WRITTEN, Mixer, OwnBatchFirst, Written

HEAD = partial(ShortcutHead, grid=2)
WAYS = [(name, way) for name in WRITTEN for way in ("alone", "example")]
every_network = pytest.mark.parametrize(
    ("name", "way"), [(n, w) for n, w in WAYS if w == "example" or not WRITTEN[n].needs_example]
)


def made(name: str) -> tuple[Written, nn.Module, tuple[Any, ...]]:
    case = WRITTEN[name]
    torch.manual_seed(0)
    model = case.build()
    for module in model.modules():  # statistics of the last batch, so that deep layers spike
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    return case, model, case.inputs()


def wrapped(case: Written, model: nn.Module, inputs: tuple[Any, ...], way: str) -> nn.Module:
    example = {"example_input": inputs} if way == "example" else {}
    return wrap_with_shortcuts(model, head=HEAD, neuron_types=case.neurons, **example)


def step(case: Written, model: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
    """Loss of one training step; the graph still stands."""
    model.train()
    output = case.run(model, *inputs)
    target = torch.arange(len(output)) % output.shape[-1]
    return ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(1.0))(output, target)


def read(case: Written, model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """Logits of every head in eval mode."""
    functional.reset_net(model)
    model.eval()
    with torch.no_grad(), shortcuts_enabled(model):
        case.run(model, *inputs)
        logits = shortcut_logits(model)
    functional.reset_net(model)
    return logits


@every_network
def test_heads_in_order_on_the_right_channels(name: str, way: str) -> None:
    case, model, inputs = made(name)
    wrapped(case, model, inputs, way)
    step(case, model, inputs)
    widths = {point: branch.channels for point, branch in shortcut_branches(model).items()}
    assert list(widths.items()) == list(case.heads.items())


@every_network
def test_logits_are_those_by_hand(name: str, way: str) -> None:
    case, model, inputs = made(name)
    wrapped(case, model, inputs, way)
    step(case, model, inputs)
    seen: dict[str, list[Tensor]] = {point: [] for point in shortcut_branches(model)}
    handles = [
        model.get_submodule(point).register_forward_hook(
            lambda _, args, output, point=point: seen[point].append(first_tensor(output))
        )
        for point in seen
    ]
    logits = read(case, model, inputs)
    for handle in handles:
        handle.remove()
    for point, branch in shortcut_branches(model).items():
        with torch.no_grad():
            by_hand = torch.stack([branch.head(case.read(f)) for f in seen[point]]).mean(0)
        assert torch.allclose(logits[point], by_hand, atol=1e-5), point


@every_network
def test_samples_do_not_mix(name: str, way: str) -> None:
    case, model, inputs = made(name)
    if case.mixes:
        pytest.skip("the network mixes them")
    wrapped(case, model, inputs, way)
    step(case, model, inputs)

    def other(x: Tensor) -> Tensor:
        x = x.clone()
        sample = x.select(case.batch, 1)
        sample.copy_(1 - sample if x.is_floating_point() else 49 - sample)
        return x

    before, after = read(case, model, inputs), read(case, model, map_tensors(inputs, other))
    for point, logits in before.items():
        moved = (logits - after[point]).abs().amax(-1) > 1e-6
        assert moved.tolist() == [row == 1 for row in range(len(logits))], point


@every_network
def test_the_loss_reaches_heads_and_what_is_below(name: str, way: str) -> None:
    case, model, inputs = made(name)
    wrapped(case, model, inputs, way)
    step(case, model, inputs).backward()
    heads = shortcut_branches(model)
    for point, branch in heads.items():
        assert all(bool(p.grad.any()) for p in branch.parameters()), point
    inside = {p for branch in heads.values() for p in branch.parameters()}
    with_heads = {p: p.grad for p in model.parameters() if p not in inside and p.grad is not None}
    model.zero_grad()
    functional.reset_net(model)
    output = case.run(model, *inputs)
    nn.functional.cross_entropy(output, torch.arange(len(output)) % 10).backward()
    assert any(not torch.allclose(p.grad, g, rtol=1e-3) for p, g in with_heads.items())


@every_network
def test_wrapping_and_removal_leave_the_model_as_it_was(name: str, way: str) -> None:
    case, model, inputs = made(name)
    if name == "lazy layers":
        case.run(model.eval(), *inputs)
        functional.reset_net(model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    wrapped(case, model, inputs, way)
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    step(case, model, inputs)
    functional.reset_net(model)
    remove_shortcuts(model)
    assert list(model.state_dict()) == list(state)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", [n for n, case in WRITTEN.items() if case.needs_example])
def test_the_model_alone_is_told_what_it_needs(name: str) -> None:
    case, model, inputs = made(name)
    with pytest.raises(ValueError, match="example_input="):
        step(case, wrapped(case, model, inputs, "alone"), inputs)


@pytest.mark.parametrize("name", list(REFUSED))
@pytest.mark.parametrize("way", ["alone", "example"])
def test_refused_in_words_that_say_why(name: str, way: str) -> None:
    build, inputs, why = REFUSED[name]
    torch.manual_seed(0)
    model, x = build(), inputs()
    with pytest.raises(ValueError, match=why):
        if way == "example":
            wrap_with_shortcuts(model, example_input=x)
        else:  # by the first step at the latest
            wrap_with_shortcuts(model)(*x)


@pytest.mark.parametrize("name", list(TOLD))
@pytest.mark.parametrize("way", ["alone", "example"])
def test_told_what_to_change(name: str, way: str) -> None:
    build, inputs, what = TOLD[name]
    torch.manual_seed(0)
    model, x = build(), inputs()
    example = {"example_input": x} if way == "example" else {}
    with pytest.raises(ValueError, match=what):
        wrap_with_shortcuts(model, neuron_types=(OwnBatchFirst,), **example)


def test_rows_for_time_steps_work_by_the_layout_that_the_error_names() -> None:
    build, inputs, _ = TOLD["rows for time steps"]
    model, x = build(), inputs()
    wrap_with_shortcuts(model, layout="(3N)C...", example_input=x)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    criterion(model(*x).mean(0), torch.tensor([1, 3])).backward()
    assert all(b.head.linear.weight.grad.any() for b in shortcut_branches(model).values())


def test_where_tokens_are_mixed_last_axes_are_asked_for_and_then_right() -> None:
    torch.manual_seed(0)
    x, target = 2 * torch.rand(3, 2, 7, 6), torch.tensor([1, 3])
    with pytest.raises(ValueError, match=r"which axis of its output 3x2x7x8 .* pass layout="):
        wrap_with_shortcuts(Mixer(7, 8), ["b.0"], example_input=x)
    with pytest.raises(ValueError, match=r"which axis of .* layout="):
        wrap_with_shortcuts(Mixer(7, 8), ["b.0"])(x)
    model = wrap_with_shortcuts(Mixer(7, 8), ["b.0"], layout="TNLC", example_input=x)
    ShortcutLoss(model, nn.CrossEntropyLoss())(model(x), target).backward()
    head = shortcut_branches(model)["b.0"].head
    assert head.linear.in_features == 8 and head.linear.weight.grad.any()
