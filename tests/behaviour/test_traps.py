"""What goes wrong around shortcut heads in real trainings: it works, or says so, never silently."""

import copy
import gc
import math
import pickle
import warnings
import weakref
from contextlib import nullcontext

import pytest
import torch
from spikingjelly.activation_based import base, functional, layer, neuron
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from sj_shortcut import (
    ConstantSchedule,
    ShortcutHead,
    ShortcutLoss,
    ShortcutWarning,
    has_shortcuts,
    remove_shortcuts,
    shortcut_branches,
    shortcut_logits,
    shortcut_parameters,
    wrap_with_shortcuts,
)
from sj_shortcut.shortcuts.hooks import forwards_of
from tests.nets.small import CLASSES, Fire, N, Net, StatelessNet, T, gradients, images, labels, same

HEADS = ["layer1.1", "layer2.1"]


@pytest.fixture(autouse=True)
def _every_warning_is_an_error():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def loss_of(model: nn.Module, coefficient: float = 1.0, **options) -> ShortcutLoss:
    return ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(coefficient), **options)


def train_step(model: nn.Module, criterion: nn.Module, x: Tensor, *, reset: bool = True) -> Tensor:
    model.zero_grad()
    loss = criterion(model(x).mean(0), labels(x.shape[1]))
    loss.backward()
    if reset:
        functional.reset_net(model)
    return loss.detach()


def twins(kind: type[nn.Module] = Net) -> tuple[nn.Module, nn.Module]:
    """Two wrapped models with equal weights."""
    model = wrap_with_shortcuts(kind())
    return model, copy.deepcopy(model)


def with_logits(model: nn.Module) -> list[str]:
    """The heads that have given logits since the last reset."""
    try:
        return list(shortcut_logits(model))
    except RuntimeError as error:
        assert "have no logits" in str(error)
        return []


# reset_net


@pytest.mark.parametrize("reset_root", ["model", "parent", "child"])
def test_a_reset_before_wrapping_does_not_hide_the_heads(reset_root):
    model = Net()
    roots = {"model": model, "parent": nn.Sequential(model), "child": model.layer1}
    functional.reset_net(roots[reset_root])

    wrap_with_shortcuts(model)
    model(images())
    assert with_logits(model) == HEADS
    functional.reset_net(roots[reset_root])

    assert with_logits(model) == []


def test_a_reset_after_removal_leaves_the_heads_alone():
    model = wrap_with_shortcuts(Net(), head=SpikingHead)
    branches = list(shortcut_branches(model).values())
    functional.reset_net(model)
    model(images())
    memories = [branch.head[1].v for branch in branches]

    remove_shortcuts(model)
    functional.reset_net(model)

    assert all(memory.shape == (N, CLASSES) for memory in memories)
    assert all(b.head[1].v is memory for b, memory in zip(branches, memories, strict=True))


def test_forgetting_reset_net_in_a_stateless_net():
    forgetful, careful = twins(StatelessNet)
    losses = loss_of(forgetful), loss_of(careful)
    for _ in range(3):
        x = images()
        a = train_step(forgetful, losses[0], x, reset=False)
        b = train_step(careful, losses[1], x)
        assert a == b
        assert same(gradients(forgetful), gradients(careful))


def test_forgetting_reset_net_in_a_net_with_memory_gives_its_own_error():
    plain = Net()
    wrapped = wrap_with_shortcuts(copy.deepcopy(plain))
    texts = []
    for model, criterion in ((plain, nn.CrossEntropyLoss()), (wrapped, loss_of(wrapped))):
        x = images()
        train_step(model, criterion, x, reset=False)
        with pytest.raises(RuntimeError, match="backward through the graph a second time") as error:
            train_step(model, criterion, x, reset=False)
        texts.append(str(error.value))
    assert texts[0] == texts[1]


# More than one forward, or fewer


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_forwards_before_their_losses_each_have_their_own_logits(order):
    model, other = twins(StatelessNet)
    batches = images(), images(5)
    outputs = [model(x).mean(0) for x in batches]
    for i in order:
        model.zero_grad()
        loss_of(model)(outputs[i], labels(len(outputs[i]))).backward()
        train_step(other, loss_of(other), batches[i])
        assert same(gradients(model), gradients(other))


def test_a_second_forward_after_a_reset_is_meant():
    model, other = twins()
    model(images())
    functional.reset_net(model)
    x = images()
    train_step(model, loss_of(model), x)
    train_step(other, loss_of(other), x)
    assert same(gradients(model), gradients(other))


def test_single_step_mode_gathers_over_its_calls():
    single, multi = Net("s"), Net("m")
    multi.load_state_dict(single.state_dict())
    for model in (single, multi):
        wrap_with_shortcuts(model)
    multi.load_state_dict(single.state_dict())
    x = images()

    output = torch.stack([single(step) for step in x])
    loss_of(single)(output.mean(0), labels()).backward()
    train_step(multi, loss_of(multi), x)

    for a, b in zip(single.parameters(), multi.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_output_of_every_step_hangs_on_the_heads():
    model = wrap_with_shortcuts(Net("s"))
    for step in images():
        reached = parameters_behind(model(step))
        assert all(parameter in reached for parameter in shortcut_parameters(model))


def parameters_behind(output: Tensor) -> set[nn.Parameter]:
    """What a backward pass from ``output`` would visit, as DistributedDataParallel counts them."""
    queue, seen, found = [output.grad_fn], set(), set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        queue += [function for function, _ in node.next_functions]
    return found


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_online_training_takes_a_loss_at_every_step(per_step, cut):
    model = wrap_with_shortcuts(StatelessNet())
    functional.set_step_mode(model, "s")
    criterion = loss_of(model, per_step=per_step)
    features = {}
    for name in HEADS:
        tap = model.get_submodule(name)
        tap.register_forward_hook(lambda _, args, out, name=name: features.update({name: out}))
    for x in (*images(), *images()):
        model.zero_grad()
        output = model(x)
        expected = {name: shortcut_branches(model)[name].head(features[name]) for name in HEADS}
        seen = shortcut_logits(model)
        criterion(output.unsqueeze(0) if per_step else output, labels()).backward()

        assert all(torch.equal(seen[name], expected[name]) for name in HEADS)
        assert all(grad.abs().sum() > 0 for grad in gradients(model).values())
        if cut:
            functional.detach_net(model)


def test_online_training_of_a_net_with_memory():
    model = wrap_with_shortcuts(Net("s"))
    criterion = loss_of(model, per_step=True)
    for step in images():
        model.zero_grad()
        criterion(model(step).unsqueeze(0), labels()).backward()
        assert all(grad is not None for grad in gradients(model).values())
        functional.detach_net(model)


def test_cutting_the_memories_keeps_the_gradient_of_all_steps_logits():
    cut, whole = (wrap_with_shortcuts(StatelessNet()) for _ in range(2))
    whole.load_state_dict(cut.state_dict())
    x = images()
    for model in (cut, whole):
        functional.set_step_mode(model, "s")
        output = 0
        for step in x:
            output = output + model(step) / T
            if model is cut:
                functional.detach_net(model)
        loss_of(model)(output, labels()).backward()
    assert same(gradients(cut), gradients(whole))


@pytest.mark.parametrize("between", ["no_grad", "eval", "inference"])
def test_a_forward_without_training_in_between_changes_nothing(between):
    model, other = twins(StatelessNet)
    x = images()
    output = model(x)
    with torch.inference_mode() if between == "inference" else torch.no_grad():
        model.train(between != "eval")
        model(images())
        model.train()
    loss_of(model)(output.mean(0), labels()).backward()
    train_step(other, loss_of(other), x)
    assert same(gradients(model), gradients(other))


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_the_last_batch_may_be_smaller(step_mode):
    model = wrap_with_shortcuts(Net(step_mode))
    criterion = loss_of(model)
    for batch in (5, 2, 4):
        x = images(batch)
        output = model(x) if step_mode == "m" else torch.stack([model(step) for step in x])
        criterion(output.mean(0), labels(batch)).backward()
        assert {v.shape for v in shortcut_logits(model).values()} == {(batch, CLASSES)}
        functional.reset_net(model)


class FailsOnce(StatelessNet):
    failed = False

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer2(self.layer1(x))
        if not self.failed:
            self.failed = True
            raise MemoryError("try again")
        return self.fc(self.layer3(features))


def test_a_forward_that_failed_midway_can_be_retried():
    model, other = twins(FailsOnce)
    other.failed = True
    x = images()
    with pytest.raises(MemoryError, match="try again"):
        model(x)
    train_step(model, loss_of(model), x)
    train_step(other, loss_of(other), x)
    assert same(gradients(model), gradients(other))


# What re-runs, or skips, a part of the network


class Checkpointed(StatelessNet):
    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        x = checkpoint(self.layer1, x, use_reentrant=self.reentrant)
        x = checkpoint(self.layer2, x, use_reentrant=self.reentrant)
        return self.fc(self.layer3(x))


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("per_step", [True, False])
def test_checkpointed_blocks_train_as_others_do(early_stop, per_step):
    model, plain = Checkpointed(), StatelessNet()
    for net in (model, plain):
        wrap_with_shortcuts(net)
    plain.load_state_dict(model.state_dict())
    for _ in range(2):
        x = images()
        for net in (model, plain):
            net.zero_grad()
            criterion = loss_of(net, per_step=per_step)
            with set_checkpoint_early_stop(early_stop):
                output = net(x) if per_step else net(x).mean(0)
            criterion(output, labels()).backward()
        assert same(gradients(model), gradients(plain))
        assert same(shortcut_logits(model), shortcut_logits(plain))
        kept = forwards_of(model).last.logits.values()
        steps = [logits.shape for (logits,) in kept]  # once each, though run twice
        assert steps == [(T, N, CLASSES) if per_step else (N, CLASSES)] * 2


class Counted(nn.Sequential):
    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        Counted.runs += 1
        return super().forward(x)


def looks_at(net: type[nn.Module], reentrant: bool = False) -> int:
    """How often the first stage of a network ran until its first batch was looked at."""
    model = net()
    model.layer1 = Counted(*model.layer1)
    model.reentrant, Counted.runs = reentrant, 0
    wrap_with_shortcuts(model)
    model(images())
    return Counted.runs


class StatefulCheckpointed(Net):
    """As it is with neurons that remember, whose checkpoints cannot run again as they did."""

    forward = Checkpointed.forward


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_look_does_not_run_checkpointed_blocks_again_for_every_gradient(reentrant):
    assert looks_at(Checkpointed, reentrant) == looks_at(StatelessNet)
    assert looks_at(StatefulCheckpointed, reentrant) == looks_at(Net)


def test_a_checkpoint_that_cuts_the_head_off_is_an_error():
    model = wrap_with_shortcuts(Checkpointed())
    model.reentrant = True
    output = model(images()).mean(0)
    with pytest.raises(RuntimeError) as error:
        loss_of(model)(output, labels())
    assert str(error.value) == (
        "the shortcut head at 'layer1.1' ran without gradients inside a model that has them, as "
        "under torch.utils.checkpoint with use_reentrant=True or torch.no_grad, and would train "
        "nothing below it: pass use_reentrant=False, or tap outside of it."
    )


class InPlace(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layer2 = nn.Sequential(nn.ReLU(inplace=True), *self.layer2)


def test_a_point_overwritten_in_place_is_an_error():
    model = wrap_with_shortcuts(InPlace(), "layer1.1")
    with pytest.raises(RuntimeError) as error:
        model(images())
    assert str(error.value) == (
        "the output of 'layer1.1' was overwritten in place by what came after it, so its shortcut "
        "head saw other values than the network: let that work out of place (inplace=False, "
        "h = h + x instead of h += x), or choose another point with at=."
    )


def test_an_output_changed_in_place_by_the_user_is_none():
    model, other = twins()
    x = images()
    output = model(x)
    output /= 2
    loss_of(model)(output.mean(0), labels()).backward()
    loss_of(other)(other(x).mean(0) / 2, labels()).backward()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.skipif(
    not hasattr(base, "to_functional_forward"), reason="0.0.0.0.14 has no explicit states"
)
@pytest.mark.parametrize("flat", [False, True])
def test_a_forward_with_explicit_states_says_that_it_skips_the_heads(flat):
    model = Net()
    if flat:
        model = nn.Sequential(*model.layer1, *model.layer2, model.layer3, model.fc)
    wrap_with_shortcuts(model)
    run = base.to_functional_forward(model)
    (output,), _ = run((images(),), tuple(base.extract_memories(model)))
    with pytest.raises(RuntimeError) as error:
        loss_of(model)(output.mean(0), labels())
    assert str(error.value) == (
        f"this output does not come from a forward pass of the wrapped {type(model).__name__}: it "
        "is another model's, it was detached and computed with again, it is not of the last "
        "forward of a compiled model, or the model was called around its hooks (model.forward(x) "
        "instead of model(x), SpikingJelly's to_functional_forward). Give the loss the output of "
        "model(x), where it is compiled before the next forward."
    )


def memopt():
    return pytest.importorskip("spikingjelly.activation_based.memopt", reason="came with 2.0.0")


@pytest.mark.parametrize("order", ["wrap first", "memopt first"])
def test_memory_optimization_around_a_head_keeps_its_gradients(order):
    checkpoint_module = memopt().checkpoint_module
    model, plain = Net(), Net()
    plain.load_state_dict(model.state_dict())
    if order == "memopt first":
        model.layer1 = checkpoint_module(model.layer1)
        wrap_with_shortcuts(model, ["layer1", "layer2.1"])
    else:
        wrap_with_shortcuts(model)
        model.layer1 = checkpoint_module(model.layer1)
    wrap_with_shortcuts(plain)
    with torch.no_grad():
        for a, b in zip(shortcut_parameters(plain), shortcut_parameters(model), strict=True):
            a.copy_(b)
    for _ in range(2):
        x = images()
        train_step(model, loss_of(model), x)
        train_step(plain, loss_of(plain), x)
        own = {name.replace("_checkpoint_wrapped_module.", ""): p for name, p in named(model)}
        for name, parameter in named(plain):
            torch.testing.assert_close(own[name].grad, parameter.grad, msg=name)


def named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters())


def test_memory_optimization_of_the_point_itself_is_told():
    checkpoint_module = memopt().checkpoint_module
    model = wrap_with_shortcuts(Net())
    model.layer1[1] = checkpoint_module(model.layer1[1])
    criterion = loss_of(model)
    for _ in range(9):
        train_step(model, criterion, images())
        assert list(criterion.parts) == ["total", "main", "layer2.1"]
    with pytest.warns(ShortcutWarning) as caught:
        train_step(model, criterion, images())
    assert [str(warning.message) for warning in caught] == [NEVER_RAN]
    train_step(model, criterion, images())


NEVER_RAN = (
    "the shortcut head at 'layer1.1' has not run in 10 training steps: its module is never called "
    "in training, or around its hooks. Choose another point."
)


def test_a_replica_of_data_parallel_is_an_error():
    model = wrap_with_shortcuts(Net())
    replica = model.layer1[1]._replicate_for_data_parallel()
    with pytest.raises(RuntimeError) as error:
        replica(torch.rand(T, N, 16))
    assert str(error.value) == (
        "nn.DataParallel copies the model at every step and the heads' logits are lost with the "
        "copies: use torch.nn.parallel.DistributedDataParallel."
    )


# Numbers


@pytest.mark.parametrize("combine", ["loss", "logits"])
def test_nan_in_a_head_of_coefficient_zero_does_no_harm(combine):
    model, plain = wrap_with_shortcuts(Net()), Net()
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        shortcut_branches(model)["layer1.1"].head.linear.weight.fill_(math.nan)
    x = images()
    total = train_step(model, loss_of(model, 0.0, combine=combine), x)

    assert total == train_step(plain, nn.CrossEntropyLoss(), x)
    expected = gradients(plain)
    assert same({name: gradients(model)[name] for name in expected}, expected)


def test_nan_in_one_head_shows_where_it_comes_from():
    model = wrap_with_shortcuts(Net())
    with torch.no_grad():
        shortcut_branches(model)["layer2.1"].head.linear.bias.fill_(math.nan)
    criterion = loss_of(model)
    train_step(model, criterion, images())
    finite = {name: bool(value.isfinite()) for name, value in criterion.parts.items()}
    assert finite == {"total": False, "main": True, "layer1.1": True, "layer2.1": False}


def test_a_head_of_weight_zero_is_left_out():
    model, other = twins()
    x = images()
    criterion = loss_of(model, weights={"layer1.1": 0})
    train_step(model, criterion, x)
    remove_shortcuts(other)
    wrap_with_shortcuts(other, "layer2.1")
    with torch.no_grad():
        pairs = zip(
            shortcut_branches(other)["layer2.1"].parameters(),
            shortcut_branches(model)["layer2.1"].parameters(),
            strict=True,
        )
        for a, b in pairs:
            a.copy_(b)
    train_step(other, loss_of(other), x)

    assert list(criterion.parts) == ["total", "main", "layer2.1"]
    expected = gradients(other)
    assert same({name: gradients(model)[name] for name in expected}, expected)
    assert all(p.grad is None for p in shortcut_branches(model)["layer1.1"].parameters())


@pytest.mark.parametrize("frozen", ["layer1", "all but the heads", "the heads"])
def test_frozen_layers(frozen):
    model = wrap_with_shortcuts(Net())
    heads = list(shortcut_parameters(model))
    body = [p for p in model.parameters() if all(p is not head for head in heads)]
    chosen = {"layer1": model.layer1[0].parameters(), "the heads": heads}.get(frozen, body)
    chosen = list(chosen)
    told = {"layer1": "no layer below the shortcut head at 'layer1.1' ", "the heads": "is frozen"}
    for parameter in chosen:
        parameter.requires_grad_(False)
    warns = pytest.warns(ShortcutWarning, match=told[frozen]) if frozen in told else nullcontext()
    with warns:
        train_step(model, loss_of(model), images())
    for parameter in model.parameters():
        if any(parameter is p for p in chosen):
            assert parameter.grad is None
        else:
            assert parameter.grad.abs().sum() > 0


# Heads of neurons


class SpikingHead(nn.Sequential):
    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(layer.Linear(channels, num_classes), neuron.LIFNode(v_threshold=0.1))


def test_heads_of_neurons_share_no_more_than_a_surrogate_function():
    model = wrap_with_shortcuts(Net(), head=SpikingHead)
    for _ in range(2):
        train_step(model, loss_of(model), images())
        assert all(parameter.grad.abs().sum() > 0 for parameter in shortcut_parameters(model))


def test_heads_may_not_share_a_neuron():
    shared = neuron.LIFNode()
    with pytest.raises(ValueError, match="for 'layer2.1' a LIFNode that belongs to the head at"):
        wrap_with_shortcuts(Net(), head=lambda c, k: nn.Sequential(layer.Linear(c, k), shared))


# Copies


def test_a_stateless_net_is_copied_between_forward_and_reset():
    model = wrap_with_shortcuts(StatelessNet())
    model(images())
    twin = copy.deepcopy(model)
    assert with_logits(model) == HEADS
    assert with_logits(twin) == []
    x = images()
    functional.reset_net(model)
    train_step(twin, loss_of(twin), x)
    train_step(model, loss_of(model), x)
    assert same(gradients(model), gradients(twin))


@pytest.mark.skipif(not hasattr(neuron, "PSN"), reason="0.0.0.0.14 has no PSN")
def test_a_net_of_parallel_neurons_is_copied_and_trained_without_reset():
    model = Net()
    for part in (model.layer1, model.layer2, model.layer3):
        part[1] = neuron.PSN(T)
    wrap_with_shortcuts(model)
    train_step(model, loss_of(model), images(), reset=False)
    twin = copy.deepcopy(model)
    x = images()
    assert train_step(twin, loss_of(twin), x) == train_step(model, loss_of(model), x, reset=False)
    assert same(gradients(model), gradients(twin))


def test_a_net_with_memory_is_copied_after_reset():
    model = wrap_with_shortcuts(Net())
    train_step(model, loss_of(model), images())
    twin = copy.deepcopy(model)
    x = images()
    assert train_step(twin, loss_of(twin), x) == train_step(model, loss_of(model), x)


# All or nothing


class Interrupts(neuron.LIFNode):
    """Ctrl-C in the middle of the surgery."""

    def register_forward_hook(self, *args, **kwargs):
        raise KeyboardInterrupt


def test_an_interrupt_while_attaching_leaves_the_model_as_it_was():
    model = Net()
    model.layer2[1] = Interrupts(step_mode="m")
    before = pickle.dumps(model), repr(model)
    with pytest.raises(KeyboardInterrupt):
        wrap_with_shortcuts(model)
    assert (pickle.dumps(model), repr(model)) == before
    assert not has_shortcuts(model)


def test_an_interrupt_while_making_heads_leaves_the_model_as_it_was():
    model = Net()
    made = []

    def head(channels: int, num_classes: int) -> nn.Module:
        if made:
            raise KeyboardInterrupt
        made.append(ShortcutHead(channels, num_classes))
        return made[-1]

    before = pickle.dumps(model), torch.get_rng_state().tolist()
    with pytest.raises(KeyboardInterrupt):
        wrap_with_shortcuts(model, head=head)
    assert (pickle.dumps(model), torch.get_rng_state().tolist()) == before
    wrap_with_shortcuts(model)


def test_hundreds_of_cycles_leave_nothing_behind():
    model = nn.Sequential(
        layer.Linear(8, 4), Fire(), layer.Linear(4, 2), Fire(), layer.Linear(2, 2)
    )
    before = pickle.dumps(model)
    heads = weakref.WeakSet()
    for _ in range(200):
        wrap_with_shortcuts(model)
        heads.add(shortcut_branches(model)["1"])
        remove_shortcuts(model)
        functional.reset_net(model)
    gc.collect()
    assert pickle.dumps(model) == before
    assert not any(
        table
        for module in model.modules()
        for name, table in vars(module).items()
        if "_hooks" in name and isinstance(table, dict)
    )
    assert len(heads) == 0
