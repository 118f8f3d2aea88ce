"""SpikingJelly 0.0.0.0.14's CuPy neurons under shortcut heads, as far as a CPU can show."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from sj_shortcut import (
    ConstantSchedule,
    ShortcutHead,
    ShortcutLoss,
    remove_shortcuts,
    shortcut_branches,
    shortcut_logits,
    wrap_with_shortcuts,
)
from sj_shortcut.neurons.backend import has_cupy_backend, set_backend
from tests.nets.small import Net, gradients, images, labels

if not has_cupy_backend():
    pytest.skip("SpikingJelly 2.0.0 has no CuPy backend", allow_module_level=True)

from tests.neurons import cupy_on_cpu
from tests.neurons.nets import multi_step_net, on_fake_cuda

needs_compiler = pytest.mark.skipif(
    cupy_on_cpu.COMPILER is None, reason="needs a C++ compiler, to run CUDA code on the CPU"
)
CLASSES = [
    neuron.IFNode,
    neuron.LIFNode,
    neuron.ParametricLIFNode,
    neuron.QIFNode,
    neuron.EIFNode,
]


@pytest.fixture
def cupy(monkeypatch):
    torch.manual_seed(0)
    cupy_on_cpu.install(monkeypatch)
    return cupy_on_cpu.RawKernel


def conv_net(cls: type[nn.Module], **options: object) -> nn.Module:
    """Features [T, N, C, H, W], whose averages over space hand back expanded gradients."""
    model = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1),
        cls(**options),
        layer.Conv2d(4, 6, 3, stride=2, padding=1),
        cls(**options),
        layer.Conv2d(6, 6, 3, padding=1),
        cls(**options),
        layer.AdaptiveAvgPool2d(1),
        layer.Flatten(),
        layer.Linear(6, 4),
    )
    functional.set_step_mode(model, "m")
    return model


def train_step(
    model: nn.Module, x: Tensor, per_step: bool = False, combine: str = "loss"
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Output, logits of the heads, and gradients."""
    model.zero_grad()
    functional.reset_net(model)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), per_step=per_step, combine=combine)
    output = model(x)
    logits = shortcut_logits(model)
    criterion(output if per_step else output.mean(0), labels(x.shape[1])).backward()
    return output.detach(), logits, gradients(model)


def assert_same_training(model: nn.Module, x: Tensor, cupy: type, **options: object) -> None:
    """The CuPy backend against the torch backend."""
    expected = train_step(model, x, **options)
    assert not cupy.launched
    functional.set_backend(model, "cupy")
    found = train_step(model, x, **options)
    assert len(cupy.launched) == 6  # three neurons forward and backward
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert all(grad.any() for grad in expected[2].values())


@needs_compiler
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("cls", CLASSES[:3])
def test_kernels_train_heads_and_layers_as_torch_does(cupy, cls, v_reset):
    model = wrap_with_shortcuts(conv_net(cls, v_threshold=0.1, v_reset=v_reset), ["1", "3"])
    assert_same_training(model, 4 * torch.rand(3, 2, 2, 5, 5), cupy)


@needs_compiler
@pytest.mark.parametrize("cls", CLASSES[3:])
def test_kernels_of_the_older_kind(cupy, cls):
    model = conv_net(cls, v_threshold=0.2, v_reset=0.0, surrogate_function=surrogate.ATan())
    wrap_with_shortcuts(model, ["1", "3"])
    assert_same_training(model, 4 * torch.rand(3, 2, 2, 5, 5), cupy)


@needs_compiler
@pytest.mark.parametrize("combine", ["loss", "logits"])
@pytest.mark.parametrize("per_step", [False, True])
def test_kernels_with_every_loss(cupy, per_step, combine):
    model = wrap_with_shortcuts(conv_net(neuron.LIFNode, v_threshold=0.1), ["1", "3"])
    x = 4 * torch.rand(3, 2, 2, 5, 5)
    assert_same_training(model, x, cupy, per_step=per_step, combine=combine)


@needs_compiler
def test_heads_see_the_same_features(cupy):
    model = wrap_with_shortcuts(conv_net(neuron.LIFNode, v_threshold=0.1), ["1", "3"])
    seen: list[list[Tensor]] = []
    for branch in shortcut_branches(model).values():
        branch.register_forward_pre_hook(lambda _, args: seen[-1].append(args[0]))
    x = 4 * torch.rand(3, 2, 2, 5, 5)
    for backend in ("torch", "cupy"):
        functional.set_backend(model, backend)
        seen.append([])
        train_step(model, x)
    assert [f.shape for f in seen[0]] == [(3, 2, 4, 5, 5), (3, 2, 6, 3, 3)]
    torch.testing.assert_close(seen[1], seen[0])


@needs_compiler
def test_gradients_that_are_views_reach_the_kernels_whole(cupy, monkeypatch):
    """A head alone hands a neuron an expanded gradient, of which the memory holds a part."""
    model = conv_net(neuron.LIFNode, v_threshold=0.1)
    wrap_with_shortcuts(model, ["1"], head=partial(ShortcutHead, grid=1))
    handed = []

    def listen(module: nn.Module, args: tuple, output: Tensor) -> None:
        output.register_hook(handed.append)

    model[1].register_forward_hook(listen)
    logits = []
    (branch,) = shortcut_branches(model).values()
    branch.register_forward_hook(lambda module, args, output: logits.append(output))
    x = 4 * torch.rand(3, 2, 2, 5, 5)
    grads = []
    for backend in ("torch", "cupy"):
        functional.set_backend(model, backend)
        model.zero_grad()
        functional.reset_net(model)
        model(x)
        nn.functional.cross_entropy(logits[-1], labels(2)).backward()
        grads.append(model[0].weight.grad.clone())
    assert not any(grad.is_contiguous() for grad in handed)
    assert grads[0].any()
    torch.testing.assert_close(grads[1], grads[0])


@needs_compiler
def test_training_goes_on_after_removal(cupy):
    model = conv_net(neuron.ParametricLIFNode, v_threshold=0.1)
    plain = copy.deepcopy(model)
    wrap_with_shortcuts(model, ["1", "3"])
    x = 4 * torch.rand(3, 2, 2, 5, 5)
    for net in (model, plain):
        functional.set_backend(net, "cupy")
    train_step(model, x)
    model.zero_grad()
    remove_shortcuts(model)
    for net in (model, plain):
        functional.reset_net(net)
        nn.functional.cross_entropy(net(x).mean(0), labels(2)).backward()
    assert all(
        torch.equal(a.grad, b.grad)
        for a, b in zip(model.parameters(), plain.parameters(), strict=True)
    )


# NumPy 1.24 took np.int away, which the newer kernels of 0.0.0.0.14 ask for.


@needs_compiler
@pytest.mark.skipif("int" in vars(np), reason="this NumPy has np.int")
@pytest.mark.parametrize("cls", CLASSES)
def test_which_neurons_need_np_int(monkeypatch, cls):
    cupy_on_cpu.install(monkeypatch, numpy_has_int=False)
    spikes = cls(step_mode="m", backend="cupy")
    if cls in (neuron.QIFNode, neuron.EIFNode):
        spikes(torch.rand(2, 3))
        return
    with pytest.raises(AttributeError, match=r"no attribute 'int'"):
        spikes(torch.rand(2, 3))


@pytest.fixture
def pretend_cuda(monkeypatch) -> Callable[[], None]:
    from spikingjelly.activation_based import base

    def pretend() -> None:
        monkeypatch.setattr(base, "check_backend_library", lambda backend: None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    return pretend


@pytest.mark.skipif("int" in vars(np), reason="this NumPy has np.int")
def test_neurons_that_need_np_int_stay_on_torch_and_say_why(pretend_cuda, monkeypatch):
    neurons = (neuron.LIFNode(), neuron.IFNode(), neuron.ParametricLIFNode(), neuron.EIFNode())
    model = on_fake_cuda(multi_step_net(*neurons))
    pretend_cuda()
    rows = set_backend(model, "auto")
    assert [row.backend for row in rows] == ["torch"] * 3 + ["cupy"]
    assert rows[0].note == (
        f"its CuPy kernels ask for numpy.int, which NumPy {np.__version__} does not have: set "
        "numpy.int = int first"
    )
    monkeypatch.setattr(np, "int", int, raising=False)
    assert [row.backend for row in set_backend(model, "auto")] == ["cupy"] * 4


@pytest.mark.skipif("int" in vars(np), reason="this NumPy has np.int")
def test_asking_for_cupy_without_np_int_is_an_error(pretend_cuda):
    model = on_fake_cuda(multi_step_net(neuron.LIFNode()))
    pretend_cuda()
    with pytest.raises(RuntimeError, match=r"1 \(LIFNode\): .* numpy.int, .* numpy.int = int"):
        set_backend(model, "cupy")


# What 0.0.0.0.14 itself says where CuPy cannot run


def test_what_spikingjelly_says_without_cupy():
    from spikingjelly.activation_based import base

    if base.cupy is not None:
        pytest.skip("CuPy is installed")
    with pytest.raises(ImportError, match="CuPy is not installed"):
        functional.set_backend(multi_step_net(neuron.LIFNode()), "cupy")


def test_auto_trains_on_a_cpu():
    torch.manual_seed(0)
    model = wrap_with_shortcuts(Net(), backend="auto")
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(1.0))
    criterion(model(images()).mean(0), labels()).backward()
    assert all(grad.any() for grad in gradients(model).values())
