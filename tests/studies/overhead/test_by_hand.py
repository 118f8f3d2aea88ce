"""That heads made by hand compute what ours do, and leave nothing behind."""

import pytest
import torch

from analysis.overhead.by_hand import HEADS, FeatureExtractor, Hooked, choose
from analysis.overhead.nets import Bench
from analysis.overhead.variants import check_same_tree
from sj_shortcut import ShortcutLoss, remove_shortcuts, shortcut_branches, wrap_with_shortcuts

CPU = torch.device("cpu")


def bench(mode: str = "m") -> Bench:
    return Bench("plain 6x8", T=3, batch=2, mode=mode, device=CPU, size=8)


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("way", ["hooks", "extractor"])
def test_heads_by_hand_compute_the_same(way, mode):
    ours, theirs = bench(mode), bench(mode)
    points = choose(theirs.model)
    if way == "hooks":
        by_hand = Hooked(theirs.model, points, HEADS["linear"], mode)
        linears = [head.linear for head in by_hand.heads]
    else:
        by_hand = FeatureExtractor(theirs.model, points)
        linears = list(by_hand.heads)
    wrap_with_shortcuts(ours.model, grid=2)
    for branch, linear in zip(shortcut_branches(ours.model).values(), linears, strict=True):
        linear.load_state_dict(branch.head.linear.state_dict())
    criterion = ShortcutLoss(ours.model, ours.criterion)
    loss = criterion(ours.logits(ours.model), ours.y)
    torch.testing.assert_close(by_hand.loss(theirs), loss)
    if way == "hooks":
        by_hand.unhook()
        check_same_tree(theirs.model, bench(mode).model)


def test_a_tree_that_did_not_come_back_is_noticed():
    one, other = bench().model, bench().model
    check_same_tree(remove_shortcuts(wrap_with_shortcuts(one)), other)
    one.register_forward_hook(lambda *args: None)
    with pytest.raises(AssertionError, match="module tree"):
        check_same_tree(one, other)
