import gc
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from sj_shortcut import (
    ConstantSchedule,
    GradientRecorder,
    ShortcutLoss,
    gradient_flow,
    shortcut_branches,
    wrap_with_shortcuts,
)
from tests.nets.small import CLASSES, N, Net, T, gradients, images, labels, same
from tests.nets.zoo import ZOO

criterion = nn.CrossEntropyLoss()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    return [(images(6), labels(6)) for _ in range(count)]


def wrapped(mode: str = "m") -> nn.Module:
    model = Net(mode)
    wrap_with_shortcuts(model)
    return model


def layers_of(model: nn.Module) -> dict[str, nn.Linear]:
    names = ("layer1.0", "layer2.0", "layer3.0", "fc")
    return {name: model.get_submodule(name) for name in names}


def autograd(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    weights = [module.weight for module in layers_of(model).values()]
    grads = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(module.weight) if grad is None else grad
        for (name, module), grad in zip(layers_of(model).items(), grads, strict=True)
    }


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


@pytest.mark.parametrize("name", ["multi_step", "seq_to_ann", "features", "one_of_each"])
def test_layouts(name: str) -> None:
    specimen = ZOO[name]
    frame = gradient_flow(specimen.make("m"), criterion, (specimen.sequence(), specimen.target()))
    assert (frame.status == "ok").all() and len(frame) == 4


def test_columns_are_means_over_batches() -> None:
    model, many = Net(), batches(4)
    each = [gradient_flow(model, criterion, batch) for batch in many]
    together = gradient_flow(model, criterion, many)
    assert (together.batches == 4).all()
    for column in each[0].select_dtypes("number").columns.drop("batches"):
        want = np.mean([frame[column] for frame in each], axis=0)
        assert together[column].tolist() == pytest.approx(want.tolist(), nan_ok=True)
    assert not {"coherence", "coherence_floor", "snr"} & set(each[0].columns)


def test_coherence_and_snr_equal_their_definitions() -> None:
    model, many = Net(), batches(5)
    frame = gradient_flow(model, criterion, iter(many)).set_index("layer")
    grads: dict[str, list[np.ndarray]] = {name: [] for name in layers_of(model)}
    for x, y in many:
        for name, grad in autograd(model, criterion(model(x).mean(0), y)).items():
            grads[name].append(grad.double().flatten().numpy())
        functional.reset_net(model)
    for name, of_layer in grads.items():
        cosines = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            for a, b in itertools.combinations(of_layer, 2)
        ]
        assert frame.coherence[name] == pytest.approx(np.mean(cosines), abs=1e-6)
        dot = np.mean([a @ b for a, b in itertools.permutations(of_layer, 2)])
        noise = np.mean([a @ a for a in of_layer]) - dot
        assert frame.snr[name] == pytest.approx(max(dot, 0) / noise, rel=1e-4, abs=1e-7)


def test_coherence_floor_is_what_random_directions_stay_below() -> None:
    n, dimensions, draws = 6, 50, 4000
    vectors = torch.randn(draws, n, dimensions)
    sums = nn.functional.normalize(vectors, dim=2).sum(1).norm(dim=1)
    coherence = (sums**2 - n) / (n * (n - 1))
    model = nn.Sequential(layer.Linear(10, 5), neuron.LIFNode(v_threshold=0.1))
    functional.set_step_mode(model, "m")
    many = [(torch.rand(2, 3, 10), labels(3)) for _ in range(n)]
    floor = gradient_flow(model, criterion, many).coherence_floor[0]
    assert 0 < (coherence > floor).double().mean() < 0.006


def test_equal_and_opposite_batches() -> None:
    model, (batch,) = Net(), batches(1)
    same_batch = gradient_flow(model, criterion, [batch] * 3)
    assert same_batch.coherence.tolist() == pytest.approx([1] * 4)
    assert (same_batch.snr > 1e5).all()
    signs = iter([1, -1])
    opposite = gradient_flow(model, lambda o, y: next(signs) * criterion(o, y), [batch] * 2)
    assert opposite.coherence.tolist() == pytest.approx([-1] * 4)
    assert (opposite.snr == 0).all()


def test_batches_without_a_gradient_do_not_count_for_coherence() -> None:
    model, (batch,) = Net(), batches(1)
    weights = iter([1.0, 0.0, 1.0])
    frame = gradient_flow(model, lambda o, y: next(weights) * criterion(o, y), [batch] * 3)
    assert frame.coherence.tolist() == pytest.approx([1] * 4)
    assert frame.zero_fraction.between(1 / 3, 1).all()
    none = gradient_flow(model, lambda o, y: 0 * criterion(o, y), [batch] * 3)
    assert none.coherence.isna().all() and (none.status == "zero").all()


# Where the gradient comes from.


@pytest.mark.parametrize("mode", "ms")
@pytest.mark.parametrize("combine", ["loss", "logits"])
@pytest.mark.parametrize("per_step", [False, True])
def test_sources_add_up_to_the_gradient(mode: str, combine: str, per_step: bool) -> None:
    model = wrapped(mode)
    loss = ShortcutLoss(
        model,
        criterion,
        ConstantSchedule(0.5),
        combine=combine,
        per_step=per_step,
        weights={"layer2.1": 0.7},
    )
    batch = images(6), labels(6)
    whole = gradient_flow(model, loss, batch).set_index("layer")
    parts = gradient_flow(model, loss, batch, by_source=True)
    assert parts.source.unique().tolist() == ["main", "layer1.1", "layer2.1"]
    shares = parts.groupby("layer").share.sum()
    assert shares.to_dict() == pytest.approx(dict.fromkeys(shares.index, 1))
    # With the vectors themselves, from the terms of the loss one by one.
    out = model(batch[0]) if mode == "m" else torch.stack([model(x) for x in batch[0]])
    output = out if per_step else out.mean(0)
    loss(output, batch[1])
    branches = shortcut_branches(model)
    logits = {
        name: branch.step_logits if per_step else branch.logits for name, branch in branches.items()
    }
    scale = {"layer1.1": 0.5, "layer2.1": 0.35}
    if combine == "loss":
        terms = {"main": output, **logits}
        vectors = {
            name: autograd(model, scale.get(name, 1) * mean_criterion(term, batch[1], per_step))
            for name, term in terms.items()
        }
    else:
        leaf = (output + sum(scale[name] * logits[name] for name in logits)).detach()
        leaf.requires_grad_()
        (at_sum,) = torch.autograd.grad(mean_criterion(leaf, batch[1], per_step), leaf)
        terms = {"main": output, **{name: scale[name] * logits[name] for name in logits}}
        vectors = {name: autograd(model, (term * at_sum).sum()) for name, term in terms.items()}
    for name in layers_of(model):
        rows = parts[parts.layer == name].set_index("source")
        total = sum(vectors[source][name].double() for source in vectors)
        assert total.norm().item() == pytest.approx(whole.weight_grad_norm[name], rel=1e-5)
        for source, grads in vectors.items():
            norm = grads[name].double().norm().item()
            assert rows.weight_grad_norm[source] == pytest.approx(norm, rel=1e-5, abs=1e-9)
            share = (grads[name].double() * total).sum() / total.square().sum()
            assert rows.share[source] == pytest.approx(share.item(), rel=1e-4, abs=1e-6)


def mean_criterion(logits: Tensor, target: Tensor, per_step: bool) -> Tensor:
    if not per_step:
        return criterion(logits, target)
    return torch.stack([criterion(step, target) for step in logits]).mean()


def test_a_head_does_not_reach_what_comes_after_it() -> None:
    model = wrapped()
    frame = gradient_flow(model, ShortcutLoss(model, criterion), batches(2), by_source=True)
    unreached = frame[(frame.source == "layer1.1") & (frame.layer != "layer1.0")]
    assert (unreached.status == "none").all()
    assert (unreached[["weight_grad_norm", "share"]] == 0).all(axis=None)
    assert unreached.output_grad_norm.isna().all()
    assert unreached.coherence.isna().all()
    assert frame[frame.source == "main"].coherence.notna().all()


def test_coefficient_zero_and_models_without_heads() -> None:
    model = wrapped()
    loss = ShortcutLoss(model, criterion, ConstantSchedule(0.0))
    frame = gradient_flow(model, loss, batches(1)[0], by_source=True)
    assert frame.share[frame.source == "main"].tolist() == pytest.approx([1] * 4)
    assert (frame.share[frame.source != "main"] == 0).all()
    frame = gradient_flow(Net(), criterion, batches(1)[0], by_source=True)
    assert frame.source.unique().tolist() == ["main"]


def test_penalties_on_weights_are_another_source() -> None:
    model = wrapped()
    shortcut = ShortcutLoss(model, criterion)

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return shortcut(output, y) + model.fc.weight.square().sum()

    frame = gradient_flow(model, loss, batches(1)[0], by_source=True).set_index(["layer", "source"])
    other = frame.xs("other", level="source")
    assert other.weight_grad_norm["fc"] == pytest.approx(
        2 * model.fc.weight.norm().item(), rel=1e-4
    )
    assert other.share.drop("fc").abs().max() < 1e-5
    assert frame.share.groupby("layer").sum().tolist() == pytest.approx([1] * 4)


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


def test_ways_to_pass_batches() -> None:
    model, many = Net(), batches(2)
    single = gradient_flow(model, criterion, many[0])
    for one in (list(many[0]), [many[0]], iter([many[0]])):
        pd.testing.assert_frame_equal(gradient_flow(model, criterion, one), single)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.rand(12, T, 8), torch.arange(12) % CLASSES),
        batch_size=N,
        shuffle=True,
        collate_fn=lambda rows: (
            torch.stack([x for x, _ in rows], 1), torch.stack([y for _, y in rows])
        ),
    )  # fmt: skip
    state = torch.get_rng_state()
    assert (gradient_flow(model, criterion, loader).batches == 4).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_models_that_loop_over_time_themselves() -> None:
    class Looping(Net):
        def forward(self, x: Tensor) -> Tensor:
            return sum(super(Looping, self).forward(x) for _ in range(T)) / T

    model, x = Looping("s"), 4 * torch.rand(N, 8)
    frame = gradient_flow(
        model, criterion, (x, labels()), forward=lambda model, x: model(x), per_step=True
    )
    model.__class__ = Net
    want = gradient_flow(model, criterion, (x.expand(T, N, 8), labels()), per_step=True)
    pd.testing.assert_frame_equal(frame, want)


def test_several_inputs_and_other_outputs() -> None:
    class Two(Net):
        def forward(self, x: Tensor, gain: Tensor) -> dict[str, Tensor]:
            return {"out": super().forward(x * gain)}

    model = Two()
    frame = gradient_flow(
        model,
        lambda out, y: criterion(out["out"].mean(0), y),
        [((images(), torch.ones(1)), labels())],
        by_source=True,
    )
    assert frame.share.tolist() == pytest.approx([1] * 4)


def test_wrapped_in_other_things() -> None:
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


def test_errors() -> None:
    model, batch = Net(), batches(1)[0]
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        gradient_flow("model", criterion, batch)
    with pytest.raises(TypeError, match="loss_fn must be callable"):
        gradient_flow(model, "mse", batch)
    with pytest.raises(ValueError, match="no layer with weights"):
        gradient_flow(neuron.LIFNode(), criterion, batch)
    with pytest.raises(ValueError, match="tag 'share'"):
        gradient_flow(model, criterion, batch, share=1)
    with pytest.raises(ValueError, match="batches is empty"):
        gradient_flow(model, criterion, [])
    with pytest.raises(TypeError, match="an iterable of them, got Tensor"):
        gradient_flow(model, criterion, batch[0])
    with pytest.raises(ValueError, match=r"batch 0 must be a pair \(x, y\), got tuple of 3"):
        gradient_flow(model, criterion, [(1, 2, 3)])
    with pytest.raises(ValueError, match=r"scalar tensor .* got a tensor \(6,\)"):
        gradient_flow(model, nn.CrossEntropyLoss(reduction="none"), batch)
    with pytest.raises(ValueError, match="without a graph"):
        gradient_flow(model, lambda o, y: criterion(o.detach(), y), batch)
    with pytest.raises(ValueError, match=r"x must be a tensor \[T, N, ...\].*forward="):
        gradient_flow(Net("s"), criterion, [((batch[0],), batch[1])])


def test_norms_do_not_depend_on_other_batches_states() -> None:
    model, (x, y) = Net(), batches(1)[0]
    twice = gradient_flow(model, criterion, [(x, y), (x, y)])
    once = gradient_flow(model, criterion, (x, y))
    assert twice.weight_grad_norm.tolist() == once.weight_grad_norm.tolist()
    assert not math.isnan(twice.alive[0])
