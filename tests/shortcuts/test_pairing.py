"""An output finds the logits of its own forwards, whatever was made of it; else it is told why."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional
from torch import nn

from sj_shortcut import ShortcutLoss, shortcut_branches, wrap_with_shortcuts
from sj_shortcut.shortcuts.forwards import Forwards, Record
from sj_shortcut.shortcuts.hooks import forwards_of
from sj_shortcut.shortcuts.pairing import gathered, heads_behind, why_no_heads
from tests.nets.small import CLASSES, N, Net, StatelessNet, T, images
from tests.nets.written import Exits, HelperBesideAndFirst

HEADS = ["layer1.1", "layer2.1"]
K = 4


@given(steps=st.lists(st.integers(1, 3), min_size=1, max_size=5), batch=st.integers(1, 3))
def test_however_time_is_cut_into_calls_the_logits_are_the_same(steps, batch):
    logits = torch.rand(sum(steps), batch, K, dtype=torch.float64)
    apart, averaged, calls = Forwards(), Forwards(), []
    for part in logits.split(steps):
        calls.append((Record(apart, True), Record(averaged, True)))
        calls[-1][0].add("a", part, len(part), True)
        calls[-1][1].add("a", part.mean(0), len(part), True)
    per_step = gathered([one for one, _ in calls], ["a", "b"], per_step=True)
    assert list(per_step) == ["a"] and torch.equal(per_step["a"], logits)
    for records in zip(*calls, strict=True):
        mean = gathered(records, ["a"], per_step=False)["a"]
        torch.testing.assert_close(mean, logits.mean(0))


def test_batches_of_several_sizes_are_no_time_steps_of_each_other():
    records = [Record(Forwards(), True) for _ in range(2)]
    for size, record in enumerate(records, 1):
        record.add("a", torch.rand(size, K), 1, False)
    with pytest.raises(RuntimeError, match=r"batch size at 'a' changed .*\(1 and 2 samples\)"):
        gathered(records, ["a"], per_step=False)


def wrapped(step_mode: str = "m", net: type[nn.Module] = Net) -> nn.Module:
    torch.manual_seed(0)
    return wrap_with_shortcuts(net(step_mode), num_classes=CLASSES)


def found(output: torch.Tensor, model: nn.Module):
    return heads_behind(output, model, forwards_of(model))


def test_forwards_behind_each_other_are_found_in_the_order_of_the_rows():
    model, outputs, due = wrapped(), [], []
    for _ in range(3):
        outputs.append(model(images()).mean(0))
        due.append(found(outputs[-1], model)[0])
        functional.reset_net(model)
    order = [2, 0, 1]
    logits, records = found(torch.cat([outputs[i] for i in order]), model)
    assert list(logits) == HEADS and len(records) == 3
    for name in HEADS:
        assert torch.equal(logits[name], torch.cat([due[i][name] for i in order]))


def test_single_steps_are_averaged_as_their_outputs_are():
    model, x = wrapped(), images()
    due, _ = found(model(x).mean(0), model)
    functional.reset_net(model)
    functional.set_step_mode(model, "s")
    logits, records = found(sum(model(step) for step in x) / T, model)
    assert len(records) == T
    for name in HEADS:
        torch.testing.assert_close(logits[name], due[name])


def test_the_last_step_is_a_readout_of_the_whole_sequence():
    model, x = wrapped(), images()
    due, _ = found(model(x)[-1], model)
    functional.reset_net(model)
    functional.set_step_mode(model, "s")
    *_, last = [model(step) for step in x]
    logits, records = found(last, model)
    assert len(records) == T
    for name in HEADS:
        torch.testing.assert_close(logits[name], due[name])


def test_steps_of_which_each_has_its_loss_have_heads_of_their_own():
    model, x = wrapped("s"), images()
    outputs = [model(step) for step in x]
    for output in outputs:
        _, records = found(output, model)
        assert len(records) == 1
        records[0].used = True


def test_rows_that_are_missing_are_told():
    model = wrapped()
    output = model(images()).mean(0)
    with pytest.raises(ValueError, match=f"has {2 * N} samples, but the forward that .* {N}: pass"):
        found(output.repeat(2, 1), model)


def test_sequences_of_single_steps_behind_each_other_are_told():
    model, means = wrapped("s"), []
    for _ in range(2):
        means.append(sum(model(step) for step in images()))
        functional.reset_net(model)
    with pytest.raises(ValueError, match="loss of each sequence of time steps by itself"):
        found(torch.cat(means), model)


def test_steps_folded_into_the_batch_are_hinted_at():
    model = wrapped("s", StatelessNet)
    output = model(torch.rand(T * N, 8))
    with pytest.raises(ValueError, match=rf'layout="\({T}N\)C..."'):
        found(output.view(T, N, CLASSES).mean(0), model)


def test_an_output_without_gradients_has_no_heads_unless_it_was_cut_off():
    model = wrapped()
    with torch.no_grad():
        output = model(images()).mean(0)
    assert found(output, model) is None
    functional.reset_net(model)
    with pytest.raises(RuntimeError, match="the output has no graph"):
        found(model(images()).mean(0).detach(), model)


def test_outputs_of_others_are_told():
    model, other, plain = wrapped(), wrapped(), Net()
    model(images())
    with pytest.raises(RuntimeError, match="another wrapped model"):
        found(other(images()).mean(0), model)
    with pytest.raises(RuntimeError, match="does not come from a forward pass of the wrapped Net"):
        found(plain(images()).mean(0), model)


def test_an_output_of_eval_mode_is_told():
    model = wrapped().eval()
    weights = torch.ones(CLASSES, requires_grad=True)  # 0.0.0.0.14 has no graph in eval mode
    output = (model(images()) * weights).mean(0)
    with pytest.raises(RuntimeError, match="the model was in eval mode in its last forward"):
        found(output, model)


def test_why_no_head_has_logits():
    model = wrapped()
    forwards = forwards_of(model)
    assert "were not reached by a forward pass" in why_no_heads(model, forwards)
    model.layer1.eval()
    model.layer2.eval()
    with pytest.raises(RuntimeError, match=r"heads rest, as 'layer1\.1' was in eval mode"):
        found(model(images()).mean(0), model)
    forwards.last.blocked.append("layer2.1")
    assert "'layer2.1' ran without gradients" in why_no_heads(model, forwards)


def test_per_step_the_output_must_have_all_steps():
    model = wrapped()
    ShortcutLoss(model, nn.CrossEntropyLoss(), per_step=True)
    output = model(images(2))
    logits, _ = found(output, model)
    assert all(values.shape == (T, 2, CLASSES) for values in logits.values())
    with pytest.raises(ValueError, match=r"pass the output of all time steps, \[T, N, K\]"):
        found(torch.cat([output, output[:1]]), model)


@pytest.mark.parametrize(
    ("build", "at", "index", "aside"),
    [
        (Exits, "all", 3, ""),
        (Exits, "all", 2, ""),  # which has all heads before it as well
        (Exits, "all", 1, "b.2.2"),
        (Exits, ["b.0.2"], 0, ""),
        (HelperBesideAndFirst, "all", 1, ""),
        (HelperBesideAndFirst, "all", 0, "b.1.2"),
        (HelperBesideAndFirst, ["b.0.2", "helper.2"], 0, ""),
        (HelperBesideAndFirst, ["b.0.2", "helper.2"], 1, "helper.2"),
    ],
)
def test_heads_must_lie_on_the_way_to_the_exit_that_the_loss_is_given(build, at, index, aside):
    torch.manual_seed(0)
    model = wrap_with_shortcuts(build(), at)
    criterion, y = ShortcutLoss(model, nn.CrossEntropyLoss()), torch.tensor([1, 3])
    output = model(2 * torch.rand(3, 2, 3, 12, 12))[index]
    if not aside:
        criterion(output, y).backward()
        heads = shortcut_branches(model).values()
        assert all(bool(p.grad.any()) for branch in heads for p in branch.parameters())
        return
    with pytest.raises(RuntimeError, match=rf"\(number {index} .* does not depend on '{aside}'"):
        criterion(output, y)
