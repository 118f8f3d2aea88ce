"""The hooks that run heads: when they do, on what, and that the output carries the logits."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from sj_shortcut import (
    ShortcutLoss,
    shortcut_branches,
    shortcut_logits,
    wrap_with_shortcuts,
)
from sj_shortcut.shortcuts.hooks import branch_in, forwards_of, has_shortcuts
from sj_shortcut.shortcuts.join import records_behind
from tests.nets.small import Net, images, labels
from tests.shortcuts.tools import has_logits


def test_the_root_alone_has_shortcuts():
    model = wrap_with_shortcuts(Net())
    assert has_shortcuts(model)
    assert not any(has_shortcuts(part) for part in model.modules() if part is not model)
    assert not has_shortcuts(nn.Sequential(model)) and not has_shortcuts(Net())


def test_the_output_carries_its_own_forward():
    model = wrap_with_shortcuts(Net())
    outputs = [model(images()) for _ in range(2)]
    records = [records_behind(output.mean(0))[0] for output in outputs]
    assert [len(found) for found in records] == [1, 1]
    (first, _), (second, _) = records[0][0], records[1][0]
    assert first is not second and first.number < second.number
    assert list(first.logits) == ["layer1.1", "layer2.1"]
    assert first.forwards is forwards_of(model)


def test_the_output_is_the_same_to_the_bit():
    model, plain = wrap_with_shortcuts(Net()), Net()
    plain.load_state_dict(model.state_dict(), strict=False)
    x = images()
    assert torch.equal(model(x), plain(x))


def test_a_part_called_by_itself_runs_no_head():
    model = wrap_with_shortcuts(Net(), example_input=images())
    model.layer1(images())
    assert not has_logits(model)


class Frozen(Net):
    graded = True

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.graded):
            x = self.layer1(x)
        return self.fc(self.layer3(self.layer2(x)))


def test_a_head_below_which_nothing_can_train_is_told():
    model = wrap_with_shortcuts(Frozen(), "layer1.1", example_input=images())
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    model.graded = False  # after it was looked at
    with pytest.raises(RuntimeError, match="'layer1.1' ran without gradients inside a model"):
        criterion(model(images()).mean(0), labels())


class InPlace(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(x)
        return self.fc(self.layer3(self.layer2(x.mul_(2))))


def test_a_feature_that_is_overwritten_is_told():
    model = wrap_with_shortcuts(InPlace(), "layer1.1")
    with pytest.raises(RuntimeError, match="'layer1.1' was overwritten in place"):
        model(images())


@pytest.mark.parametrize("late", [False, True])
def test_heads_read_what_hooks_put_on_after_wrapping_make_of_a_feature(late):
    model = wrap_with_shortcuts(Net(), "layer1.1")
    if late:  # seen in the first forward after it
        model(images())
        functional.reset_net(model)
    model.layer1.register_forward_hook(lambda module, args, output: output)
    model.layer1[1].register_forward_hook(lambda module, args, output: 0.5 * output)
    if late:
        model(images())
        functional.reset_net(model)
    seen = []
    model.layer2[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    model(images())
    (logits,), head = shortcut_logits(model).values(), shortcut_branches(model)["layer1.1"].head
    torch.testing.assert_close(logits, head(seen[-1], with_time=True))


def test_a_head_that_is_gone_is_told():
    model = wrap_with_shortcuts(Net())
    model.layer1[1] = copy.deepcopy(Net().layer1[1])
    functional.set_step_mode(model, "m")
    with pytest.raises(RuntimeError, match="'layer1.1' is gone"):
        branch_in(model.layer1[1], "layer1.1", forwards_of(model))
    with pytest.raises(RuntimeError, match="Call remove_shortcuts"):
        shortcut_branches(model)
