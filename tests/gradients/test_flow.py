import gc
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from sj_shortcut import GradientRecorder, ShortcutLoss, gradient_flow, wrap_with_shortcuts
from tests.gradients.tools import batches, criterion, wrapped
from tests.nets.small import Net, gradients, images, same, skip_unless_neurons_compile
from tests.nets.written import WRITTEN
from tests.nets.zoo import ZOO
from tests.refusals import refused

# What it measures.


@pytest.mark.parametrize("mode", "ms")
@pytest.mark.parametrize("name", ["nested", "learnable_tau", "sound", "pre_activation"])
def test_one_batch_is_what_a_recorder_sees(name: str, mode: str) -> None:
    specimen = ZOO[name]
    model, x = specimen.make(mode), specimen.sequence()
    flow = gradient_flow(model, criterion, (x, specimen.target()), run="a", per_step=True)
    with GradientRecorder(model, per_step=True) as recorder:
        criterion(specimen.logits(model, x, mode), specimen.target()).backward()
        recorder.step(run="a")
    recorded = recorder.frame.drop(columns="step")
    assert flow.columns.tolist() == [*recorded.columns, "batches"]
    pd.testing.assert_frame_equal(flow.drop(columns="batches"), recorded)


def test_columns_are_means_over_batches() -> None:
    model, many = Net(), batches(4)
    each = [gradient_flow(model, criterion, batch) for batch in many]
    together = gradient_flow(model, criterion, many)
    assert (together.batches == 4).all()
    for column in each[0].select_dtypes("number").columns.drop("batches"):
        want = np.mean([frame[column] for frame in each], axis=0)
        assert together[column].tolist() == pytest.approx(want.tolist(), nan_ok=True)
    assert not {"coherence", "coherence_floor", "snr"} & set(each[0].columns)


def test_norms_do_not_depend_on_other_batches_states() -> None:
    model, (x, y) = Net(), batches(1)[0]
    twice = gradient_flow(model, criterion, [(x, y), (x, y)])
    once = gradient_flow(model, criterion, (x, y))
    assert twice.weight_grad_norm.tolist() == once.weight_grad_norm.tolist()
    assert not math.isnan(twice.alive[0])


# What it leaves alone.


def everything(model: nn.Module, *others: nn.Module) -> dict[str, object]:
    """All that a module holds, by name and by identity."""
    held: dict[str, object] = {}
    for root in (model, *others):
        for name, module in root.named_modules():
            for key, value in vars(module).items():
                held[f"{name}/{key}"] = value
                if isinstance(value, dict):
                    held.update({f"{name}/{key}/{k}": v for k, v in value.items()})
    return held


@pytest.mark.parametrize("mode", "ms")
@pytest.mark.parametrize("failing", [False, True])
def test_leaves_no_trace(mode: str, failing: bool) -> None:
    specimen = ZOO["own_shortcut"]
    model = specimen.make(mode)
    model.insert(2, layer.Dropout(0.3, step_mode=mode))
    wrap_with_shortcuts(model)
    model[0][1].eval()
    loss = ShortcutLoss(model, criterion)
    x, y = specimen.sequence(), specimen.target()
    model[0][2].store_v_seq = True
    pending = loss(specimen.logits(model, x, mode), y)  # neurons and heads hold states
    before = everything(model, loss)
    values = {
        key: value.detach().clone() for key, value in before.items() if isinstance(value, Tensor)
    }
    versions = {key: value._version for key, value in before.items() if isinstance(value, Tensor)}
    state = torch.get_rng_state()

    def measured(output: Tensor, target: Tensor) -> Tensor:
        value = loss(output, target)
        if failing:
            raise KeyError("mine")
        return value

    measured.per_step = False
    try:
        gradient_flow(model, measured, [(2 * x, y)] * 2, by_source=True)
    except KeyError:
        assert failing
    loss_parts = loss.parts
    gradient_flow(model, loss, (x, y))
    assert loss.parts is loss_parts
    after = everything(model, loss)
    assert {key for key in after if "/parts" not in key} <= before.keys() <= after.keys()
    for key, value in before.items():
        if "/parts" not in key:
            assert after[key] is value or after[key] == value, key
    for key, value in values.items():
        if "/parts" not in key:
            assert torch.equal(after[key], value) and after[key]._version == versions[key], key
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    pending.backward()  # the graph of before is whole


def test_gradients_of_before_stay() -> None:
    model = Net()
    model(images()).sum().backward()
    functional.reset_net(model)
    before, held = gradients(model), [p.grad for p in model.parameters()]
    gradient_flow(model, criterion, batches(2))
    assert same(before, gradients(model))
    assert all(a is p.grad for a, p in zip(held, model.parameters(), strict=True))


def test_eval_mode_without_gradients() -> None:
    model, batch = wrapped(), batches(1)[0]
    loss = ShortcutLoss(model, criterion)
    want = gradient_flow(model, loss, batch)
    model.eval()
    with torch.no_grad():
        got = gradient_flow(model, loss, batch)
    pd.testing.assert_frame_equal(got, want)
    assert not any(module.training for module in model.modules())


def test_memory_does_not_grow_with_batches() -> None:
    alive = []

    def counted(count: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches(count):
            yield batch
            gc.collect()
            alive.append(sum(type(thing) is Tensor for thing in gc.get_objects()))

    gradient_flow(Net(), criterion, counted(6))
    assert max(alive[2:]) <= alive[1]


# How it is called.


def test_wrapped_in_other_things() -> None:
    skip_unless_neurons_compile()
    model, batch = Net(), batches(1)[0]
    want = gradient_flow(model, criterion, batch)
    compiled = torch.compile(model, backend="eager")
    compiled(batch[0])
    functional.reset_net(model)
    pd.testing.assert_frame_equal(gradient_flow(compiled, criterion, batch), want)
    model.layer2 = torch.compile(model.layer2, backend="eager")
    inside = gradient_flow(model, criterion, batch)
    assert inside.weight_grad_norm.tolist() == pytest.approx(want.weight_grad_norm.tolist())
    assert inside.alive.tolist() == pytest.approx(want.alive.tolist(), nan_ok=True)


def test_a_model_that_changes_its_input_in_place_leaves_the_batch_as_it_was() -> None:
    model, x = WRITTEN["an input changed in place"].build(), torch.rand(2, 3, 12, 12)
    kept, batch = x.clone(), (x, torch.tensor([1, 3]))
    one, two = (gradient_flow(model, criterion, batch) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    assert torch.equal(x, kept)


def test_wrong_arguments() -> None:
    model, batch = Net(), batches(1)[0]
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got str"):
        gradient_flow("model", criterion, batch)
    with refused(TypeError, "loss_fn must be callable as loss_fn(output, y), got 'mse'."):
        gradient_flow(model, "mse", batch)
    with refused(ValueError, "LIFNode has no layer with weights to measure."):
        gradient_flow(neuron.LIFNode(), criterion, batch)
    with pytest.raises(ValueError, match="the tag 'share'"):
        gradient_flow(model, criterion, batch, share=1)
    with refused(ValueError, "batches is empty: pass one (x, y), or an iterable of them."):
        gradient_flow(model, criterion, [])


@pytest.mark.parametrize(
    ("loss_fn", "got"),
    [
        (nn.CrossEntropyLoss(reduction="none"), "a tensor (6,)"),
        (lambda output, y: criterion(output.detach(), y), "a tensor () without a graph"),
        (lambda output, y: 1.0, "float"),
    ],
)
def test_losses_without_a_gradient(loss_fn: Any, got: str) -> None:
    with refused(
        ValueError,
        f"loss_fn(output, y) must return a scalar tensor that depends on the weights, got {got}.",
    ):
        gradient_flow(Net(), loss_fn, batches(1)[0])
