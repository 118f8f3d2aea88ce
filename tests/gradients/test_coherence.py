import itertools

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_shortcut import gradient_flow
from tests.gradients.tools import autograd, batches, criterion, layers_of
from tests.nets.small import Net, labels


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
