"""Whether the heads of a model move while it trains, found without waiting for the device."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.torch_model import Later

__all__ = ["Movement", "own_parameters"]

# So many entries of each parameter of a head are kept: some are small enough to show any step.
_ENTRIES = 256


class Movement:
    """Whether an optimizer moves the heads, by a little of each and one parameter of the model.

    Versions tell for nothing; only where they suggest a slip are values compared and waited for, as
    there are optimizers that write around them. An optimizer that writes what was there already is
    found by values that the device compares in its own time.

    Args:
        root: The wrapped model.
        branches: The heads that are used, by name.
    """

    def __init__(self, root: nn.Module, branches: Mapping[str, ShortcutBranch]) -> None:
        smallest = {name: _smallest(branch.parameters()) for name, branch in branches.items()}
        self.heads = {name: _Kept(p) for name, p in smallest.items() if p is not None}
        own = own_parameters(root)
        self.body = [(p, p._version) for p in own if p.requires_grad]
        body = _smallest(own)
        self.kept = None if body is None else _Kept(body)
        self.samples = {
            name: [(p, _entries(p)) for p in _trained(branches[name].parameters())]
            for name in self.heads
        }
        self.compared: Later | None = None
        self.calls = 0
        self.parts = dict.fromkeys(self.heads, 0)

    def count(self, used: Iterable[str]) -> int:
        """Note the heads that a call uses; the number of calls so far."""
        self.calls += 1
        for name in used:
            if name in self.parts:
                self.parts[name] += 1
        return self.calls

    def left_behind(self) -> list[str] | None:
        """Heads that stay where they are while others move; ``None`` if not known yet."""
        if not self.heads or self.kept is None:
            return []
        still = [name for name, head in self.heads.items() if not head.version_moved()]
        if len(still) < len(self.heads) or any(p._version != v for p, v in self.body):
            # A head that had no part has no gradient, which optimizers pass over.
            took_part = [name for name in still if 2 * self.parts[name] > self.calls]
            return took_part or (None if still else [])
        if not self.kept.moved():
            return None
        return [name for name in still if not self.heads[name].moved()]

    def unmoved(self) -> list[str] | None:
        """Heads whose values stay what they were though an optimizer writes them.

        The first call has the device compare, a later one reads what came out; ``None`` until then.
        """
        kept = self.kept
        if not self.heads or kept is None or kept.parameter.device != kept.value.device:
            return []
        if self.compared is None:
            body = kept.parameter.detach() != kept.value
            heads = [
                torch.cat([_entries(p) != then for p, then in samples]).any()
                for samples in self.samples.values()
                if all(p.device == then.device for p, then in samples)
            ]
            if len(heads) < len(self.samples):  # the model went to another device
                return []
            to = body.device
            self.compared = Later(torch.stack([body.any(), *(h.to(to) for h in heads)]))
            return None
        found = self.compared.read()
        if found is None:
            return None
        body_moved, *moved = found.tolist()
        return [n for n, m in zip(self.samples, moved, strict=True) if body_moved and not m]

    def is_held(self, names: Iterable[str]) -> bool:
        """Whether optimizers that are alive hold the heads of these names. It takes a while."""
        parameters = {id(self.heads[name].parameter) for name in names}
        gc.collect()  # of those that are gone some wait to be collected
        for found in gc.get_objects():
            if issubclass(type(found), torch.optim.Optimizer):
                groups = getattr(found, "param_groups", [])
                parameters -= {id(p) for group in groups for p in group["params"]}
        return not parameters

    def is_of(self, branches: Mapping[str, ShortcutBranch]) -> bool:
        """Whether the heads still have the parameters that are watched."""
        return all(
            any(head.parameter is p for p in branches[name].parameters())
            for name, head in self.heads.items()
            if name in branches
        )


class _Kept:
    """A parameter as it was."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self.version = parameter._version
        self.value = parameter.detach().clone()

    def version_moved(self) -> bool:
        return self.parameter._version != self.version

    def moved(self) -> bool:
        same_place = self.parameter.device == self.value.device
        return not (same_place and torch.equal(self.parameter.detach(), self.value))


def own_parameters(root: nn.Module) -> list[nn.Parameter]:
    """The model's parameters without those of its heads."""
    heads = (m for m in root.modules() if isinstance(m, ShortcutBranch))
    in_heads = {id(p) for head in heads for p in head.parameters()}
    return [p for p in root.parameters() if id(p) not in in_heads]


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if p.requires_grad and not hasattr(p, "full_tensor")]


def _smallest(parameters: Iterable[nn.Parameter]) -> nn.Parameter | None:
    return min(_trained(parameters), key=Tensor.numel, default=None)


def _entries(parameter: Tensor) -> Tensor:
    return parameter.detach().flatten()[:_ENTRIES].clone()
