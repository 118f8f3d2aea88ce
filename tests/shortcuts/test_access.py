"""What can be read of the heads, while the model trains and while it does not."""

import copy
import pickle

import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn

from sj_shortcut import (
    ShortcutHead,
    ShortcutLoss,
    shortcut_logits,
    shortcut_parameters,
    shortcuts_enabled,
    wrap_with_shortcuts,
)
from sj_shortcut.shortcuts.hooks import forwards_of
from tests.nets.small import Net, images
from tests.nets.zoo import ZOO, conv_net
from tests.shortcuts.tools import (
    SpikingHead,
    both_modes,
    conv_net_with,
    has_logits,
    run,
    step_logits,
)


@both_modes
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("head", [ShortcutHead, SpikingHead])
def test_reset_net_clears_logits_and_the_neurons_of_heads(mode, per_step, head):
    model = conv_net_with(head, mode)
    functional.reset_net(model)
    first = run(model, mode, per_step)
    functional.reset_net(model)
    assert not has_logits(model)
    assert torch.equal(run(model, mode, per_step), first)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize(
    ("name", "mode", "at"),
    [("conv_net", "m", "1"), ("conv_net", "s", "1"), ("multi_step", "m", "0.2")],
)
def test_a_forward_after_a_loss_begins_anew_without_a_reset(name, mode, at, per_step):
    """Neurons go on, as the user wants it; logits of the batch before are not those of this one."""
    specimen = ZOO[name]
    model = wrap_with_shortcuts(specimen.make(mode), at=at)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), per_step=per_step)
    for module in model.modules():  # so that the second pass starts where the first did
        if isinstance(module, neuron.BaseNode):
            module.register_forward_pre_hook(start_afresh)
    logits = []
    for _ in range(2):
        outputs = specimen.outputs(model, specimen.sequence(), mode)
        criterion(outputs if per_step else outputs.mean(0), specimen.target())
        logits.append(step_logits(model, at) if per_step else shortcut_logits(model)[at])
    assert torch.equal(logits[0], logits[1])


def start_afresh(module: nn.Module, args: object) -> None:
    module.reset()


def test_reset_net_reaches_heads_of_a_model_it_knew_before():
    """SpikingJelly 2.0.0 remembers, of each model, which modules it has to reset."""
    model = conv_net()
    functional.reset_net(model)
    wrap_with_shortcuts(model, at="1")
    model(torch.rand(2, 3, 8, 8))
    assert has_logits(model)
    functional.reset_net(model)
    assert not has_logits(model)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_branch_begin_without_logits(copied):
    model, x = wrap_with_shortcuts(Net()), images()
    with torch.no_grad(), shortcuts_enabled(model):
        model(x)
        twin = copied(model)
        assert has_logits(model) and not has_logits(twin)
        assert forwards_of(twin) is not forwards_of(model)
        functional.reset_net(twin)
        twin(x)
        for name, logits in shortcut_logits(model).items():
            assert torch.equal(shortcut_logits(twin)[name], logits)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_heads_run_only_to_train(training, gradients):
    model = conv_net_with(ShortcutHead, "m").train(training)
    with torch.set_grad_enabled(gradients):
        model(ZOO["conv_net"].sequence())
    assert has_logits(model) == (training and gradients)


@both_modes
@pytest.mark.parametrize("head", [ShortcutHead, SpikingHead])
def test_logits_can_be_read_in_eval_mode(mode, head):
    specimen = ZOO["conv_net"]
    model = conv_net_with(head, mode)
    run(model, mode)
    trained = shortcut_logits(model)["1"].detach()
    functional.reset_net(model)

    model.eval()
    with torch.no_grad(), shortcuts_enabled(model):
        specimen.outputs(model, specimen.sequence(), mode)
        read = shortcut_logits(model)["1"]
    functional.reset_net(model)
    # Without batch norm or dropout, both modes of training compute the same.
    assert torch.equal(read, trained)


def test_the_accuracy_of_a_trained_head_can_be_read():
    specimen = ZOO["nested"]
    model = wrap_with_shortcuts(specimen.make("m"))
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    optimizer = torch.optim.Adam(shortcut_parameters(model), lr=0.1)
    for _ in range(30):
        loss = criterion(model(specimen.sequence()).mean(0), specimen.target())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(model)
    with torch.no_grad(), shortcuts_enabled(model.eval()):
        model(specimen.sequence())
        predicted = {name: o.argmax(1).tolist() for name, o in shortcut_logits(model).items()}
    assert predicted == {"0.1.2": [0, 1]}


def test_reading_leaves_nothing_on():
    model = conv_net_with(ShortcutHead, "m").eval()
    x = ZOO["conv_net"].sequence()
    with torch.no_grad():
        with shortcuts_enabled(model):
            model(x)
        assert not has_logits(model)
        functional.reset_net(model)
        model(x)
        assert not has_logits(model)
    with pytest.raises(RuntimeError, match="heads at '1' have no logits"):
        shortcut_logits(model)


def test_reading_leaves_nothing_on_after_an_error():
    model = conv_net_with(ShortcutHead, "m").eval()
    with pytest.raises(KeyError), shortcuts_enabled(model):
        model(ZOO["conv_net"].sequence())
        raise KeyError
    assert not forwards_of(model).always_on
    assert not has_logits(model)


def test_readings_may_be_nested():
    model = conv_net_with(ShortcutHead, "m").eval()
    with torch.no_grad(), shortcuts_enabled(model):
        with shortcuts_enabled(model):
            pass
        model(ZOO["conv_net"].sequence())
        assert shortcut_logits(model)["1"].shape == (2, 10)
    assert not forwards_of(model).always_on


@both_modes
def test_several_batches_in_one_reading(mode):
    """Each batch begins anew after a reset_net, as the model itself does."""
    specimen = ZOO["conv_net"]
    model = conv_net_with(ShortcutHead, mode).eval()
    logits = []
    with torch.no_grad(), shortcuts_enabled(model):
        for seed in (1, 2, 1):
            specimen.outputs(model, specimen.sequence(seed), mode)
            logits.append(shortcut_logits(model)["1"])
            functional.reset_net(model)
    assert torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[0], logits[1])


def test_training_goes_on_after_a_reading():
    specimen = ZOO["conv_net"]
    model, undisturbed = conv_net_with(ShortcutHead, "m"), conv_net_with(ShortcutHead, "m")
    with torch.no_grad(), shortcuts_enabled(model.eval()):
        model(specimen.sequence(5))
    functional.reset_net(model)
    assert torch.equal(run(model.train(), "m"), run(undisturbed, "m"))
