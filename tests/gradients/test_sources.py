import pytest
import torch
from torch import Tensor

from sj_shortcut import (
    ConstantSchedule,
    ShortcutLoss,
    gradient_flow,
)
from sj_shortcut.shortcuts.join import records_behind
from sj_shortcut.shortcuts.pairing import gathered
from tests.calls import calls_in
from tests.gradients.tools import autograd, batches, criterion, layers_of, wrapped
from tests.nets.small import Net, images, labels


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
    (records, _) = records_behind(output)
    calls = [record for record, _ in sorted(records, key=lambda found: found[0].number)]
    logits = gathered(calls, ["layer1.1", "layer2.1"], per_step=per_step)
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


def test_each_head_costs_one_backward_pass_and_a_single_batch_no_sums() -> None:
    model = wrapped()
    loss = ShortcutLoss(model, criterion)
    counts = [
        calls_in(lambda: gradient_flow(model, loss, given, by_source=True))  # noqa: B023
        for given in (batches(1)[0], batches(1), iter(batches(1)))
    ]
    for count in counts:
        assert count["_Flow._gradients"] == 1 + 3  # of the loss, and of the output and two heads
        assert count["inner_product"] == len(layers_of(model)) * (1 + 3)
    assert [count["GradientSums.add"] for count in counts] == [0, 0, len(layers_of(model)) * 3]


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
