import copy
import gc
import math
import pickle
import weakref

import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from sj_shortcut import (
    GradientRecorder,
    ShortcutLoss,
    gradient_flow,
    wrap_with_shortcuts,
)
from sj_shortcut.gradients.run_model import run
from tests.gradients.tools import (
    SlowSigmoid,
    criterion,
    hooks_on,
    record,
    train_step,
)
from tests.nets.small import Net, images, labels


def test_depth_is_the_order_of_execution() -> None:
    class Backwards(Net):
        def __init__(self) -> None:
            super().__init__()
            self.layer1, self.layer3 = self.layer3, self.layer1

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.layer1(self.layer2(self.layer3(x))))

    frame = record(Backwards())
    assert frame.index.tolist() == ["layer3.0", "layer2.0", "layer1.0", "fc"]
    assert frame.neuron.tolist() == ["layer3.1", "layer2.1", "layer1.1", ""]


def test_heads_are_not_layers_of_the_network() -> None:
    model = wrap_with_shortcuts(Net())
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    with GradientRecorder(model) as recorder:
        criterion(model(images()).mean(0), labels()).backward()
        recorder.step()
    assert recorder.frame.layer.tolist() == ["layer1.0", "layer2.0", "layer3.0", "fc"]
    assert recorder.frame.neuron.tolist() == ["layer1.1", "layer2.1", "layer3.1", ""]


@pytest.mark.parametrize("mode", "ms")
@pytest.mark.parametrize(
    "kind", ["IFNode", "LIFNode", "ParametricLIFNode", "QIFNode", "EIFNode", "IzhikevichNode"]
)
def test_fused_neurons_show_the_same_potentials_as_others(kind: str, mode: str) -> None:
    frames = []
    for function in (surrogate.Sigmoid(), SlowSigmoid()):
        torch.manual_seed(0)
        spiking = getattr(neuron, kind)(surrogate_function=function)
        model = nn.Sequential(layer.Linear(8, 16), spiking, layer.Linear(16, 4))
        functional.set_step_mode(model, mode)
        x = 3 * torch.rand(4, 3, 8)
        with GradientRecorder(model, per_step=True) as recorder:
            out = model(x) if mode == "m" else torch.stack([model(x_t) for x_t in x])
            out.sum().backward()
            recorder.step()
        frames.append(recorder.frame[recorder.frame.layer == "0"])
    assert frames[0].alive.tolist() == pytest.approx(frames[1].alive.tolist())
    assert frames[0].alive.between(0, 1).all()


def test_own_neuron_types() -> None:
    class Step(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return surrogate.ATan()(x - 0.1)

    model = Net()
    model.layer2[1] = Step()
    assert record(model).neuron["layer2.0"] == "layer3.1"
    frame = record(model, neuron_types=(Step,))
    assert frame.neuron["layer2.0"] == "layer2.1"
    assert frame.output_grad_norm["layer2.0"] > 0
    assert math.isnan(frame.alive["layer2.0"])  # its surrogate is none of its modules


def test_in_place_modules() -> None:
    class Plain(Net):
        inplace = False

        def forward(self, x: Tensor) -> Tensor:
            spikes = nn.functional.relu(1.0 * self.layer1(x), inplace=self.inplace)
            spikes = self.layer2(spikes)
            if self.inplace:
                spikes *= 2
            else:
                spikes = spikes * 2
            return self.fc(self.layer3(spikes))

    class InPlace(Plain):
        inplace = True

    frames = []
    for kind in (Plain, InPlace):
        torch.manual_seed(0)
        frames.append(record(kind()))
    assert (frames[0].drop(columns="module") == frames[1].drop(columns="module")).sum(
        axis=None
    ) == frames[0].drop(columns="module").notna().sum(axis=None)


def test_shared_modules() -> None:
    class Shared(nn.Module):
        """One weight and one neuron, called three times."""

        def __init__(self) -> None:
            super().__init__()
            self.inlet = layer.Linear(8, 6, step_mode="m")
            self.body = layer.Linear(6, 6, step_mode="m")
            self.spikes = neuron.IFNode(v_threshold=0.1, step_mode="m")
            self.again = self.body

        def forward(self, x: Tensor) -> Tensor:
            x = self.spikes(self.inlet(x))
            for _ in range(2):
                self.spikes.reset()
                x = self.spikes(self.again(x))
                x.retain_grad()
                self.kept = [*getattr(self, "kept", []), x]
            return x

    torch.manual_seed(0)
    model = Shared()
    with GradientRecorder(model) as recorder:
        model(images()).sum().backward()
        recorder.step()
    frame = recorder.frame.set_index("layer")
    assert frame.index.tolist() == ["inlet", "body"]
    assert frame.neuron.tolist() == ["spikes", "spikes"]
    norms = [x.grad.norm().item() for x in model.kept]
    assert frame.output_grad_norm["body"] == pytest.approx(math.hypot(*norms))
    rates = [x.detach().mean().item() for x in model.kept]
    assert frame.firing_rate["body"] == pytest.approx(sum(rates) / 2)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant: bool) -> None:
    class Saving(Net):
        checkpoints = False

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer1(x)
            if self.checkpoints:
                x = checkpoint(self._middle, x, use_reentrant=reentrant)
            else:
                x = self._middle(x)
            return self.fc(self.layer3(x))

        def _middle(self, x: Tensor) -> Tensor:
            self.layer2[1].reset()
            return self.layer2(x)

    torch.manual_seed(0)
    model, x = Saving(), images()
    frames = []
    for model.checkpoints in (False, True):
        # Stopping early inside TorchScript, which 0.0.0.0.14 uses, fails in PyTorch itself.
        with GradientRecorder(model) as recorder, set_checkpoint_early_stop(False):
            model(x).sum().backward()
            recorder.step()
        functional.reset_net(model)
        model.zero_grad()
        frames.append(recorder.frame.set_index("layer").select_dtypes("number"))
    assert frames[0].equals(frames[1])


def test_nothing_stays_behind() -> None:
    model = Net()
    before = hooks_on(model), {name: set(vars(m)) for name, m in model.named_modules()}
    outputs = []
    handle = model.layer1[1].register_forward_hook(lambda m, i, o: outputs.append(weakref.ref(o)))
    recorder = GradientRecorder(model)
    with recorder:
        assert hooks_on(model) > before[0] + 1
        train_step(model, recorder)
    handle.remove()
    assert (hooks_on(model), {name: set(vars(m)) for name, m in model.named_modules()}) == before
    assert not recorder._tracer.calls
    gc.collect()
    assert outputs[0]() is None
    reference = weakref.ref(recorder._tracer)
    del recorder
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("where", ["forward", "neuron", "inside", "backward", "loop"])
def test_nothing_stays_behind_after_an_exception(where: str) -> None:
    model = Net()
    clean = hooks_on(model)

    def fail(*args: object) -> None:
        raise KeyError("mine")

    recorder = GradientRecorder(model)
    with pytest.raises(KeyError, match="mine"), recorder:
        if where == "forward":
            model.fc.register_forward_hook(fail)
        if where == "neuron":
            model.layer2[1].register_forward_hook(fail)
        if where == "inside":
            model.layer2[1].surrogate_function = SlowSigmoid()  # as no fused kernel knows it
            model.layer2[1].surrogate_function.register_forward_pre_hook(fail)
        out = model(images())
        if where == "backward":
            out.register_hook(fail)
        out.sum().backward()
        fail()
    left = {"forward": 1, "neuron": 1, "inside": 1}.get(where, 0)  # the test's own
    assert hooks_on(model) == clean + left
    assert len(torch.overrides._get_current_function_mode_stack()) == 0


def test_a_copy_made_meanwhile_watches_nothing() -> None:
    model = Net()
    with GradientRecorder(model) as recorder:
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            train_step(twin)
        assert not recorder._tracer.calls and not recorder._tracer.order
        train_step(model, recorder)
    assert len(recorder.frame) == 4


class Doubled(nn.Module):
    """In eval mode, as a look puts it in, it does otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if self.training else x


@pytest.mark.parametrize("mode", "ms")
def test_a_look_at_the_first_batch_is_not_measured(mode: str) -> None:
    """A wrapped model runs its first training batch once more, to see on which axes it lies."""
    torch.manual_seed(0)
    model, x, y = Net(mode), images(6), labels(6)
    model.layer1.insert(1, Doubled())
    wrap_with_shortcuts(model)
    loss = ShortcutLoss(model, criterion)
    frames = []
    for _ in range(2):
        with GradientRecorder(model, per_step=True) as recorder:
            loss(run(model, x, mode == "s", True), y).backward()
            recorder.step()
        frames.append(recorder.frame)
        functional.reset_net(model)
        model.zero_grad()
    pd.testing.assert_frame_equal(*frames)
    assert frames[0].output_grad_norm.notna().any()
    flow = gradient_flow(model, loss, (x, y), per_step=True)
    assert flow.firing_rate.tolist() == pytest.approx(frames[0].firing_rate.tolist(), nan_ok=True)
