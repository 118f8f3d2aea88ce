"""Rules by which λ may follow the training: the candidates for ``HandoverSchedule``.

All decide after each epoch, from the mean training losses of that epoch: m of the output, h of
the heads. Those that read gradients take one more forward and two backward passes an epoch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from sj_shortcut import HandoverSchedule, shortcut_logits
from sj_shortcut.torch_model.preserve import preserved

__all__ = ["RULES", "Race", "ReadsGradients", "Remaining"]

Batches = Sequence[tuple[Tensor, Tensor]]


class RatioSquared(HandoverSchedule):
    """λ of a head = min(1, m / h of that head) squared: lets go sooner."""

    def rule(self, main: float, heads: dict[str, float]) -> dict[str, float]:
        return {name: share**2 for name, share in super().rule(main, heads).items()}


class RatioAll(HandoverSchedule):
    """One λ = min(1, m / mean h)."""

    def rule(self, main: float, heads: dict[str, float]) -> dict[str, float]:
        mean = sum(heads.values()) / len(heads)
        return dict.fromkeys(heads, min(1.0, main / mean) if mean else 1.0)


class RatioBest(HandoverSchedule):
    """One λ = min(1, m / smallest h): holds on until the output is better than every head."""

    def rule(self, main: float, heads: dict[str, float]) -> dict[str, float]:
        best = min(heads.values())
        return dict.fromkeys(heads, min(1.0, main / best) if best else 1.0)


class Remaining(HandoverSchedule):
    """One λ = m / (m of the first epoch): the part of the loss still to go."""

    def rule(self, main: float, heads: dict[str, float]) -> dict[str, float]:
        self.first = getattr(self, "first", main)
        return dict.fromkeys(heads, min(1.0, main / self.first))


class Overtaken(HandoverSchedule):
    """λ of a head halves in each epoch in which the output's loss is below the head's."""

    def rule(self, main: float, heads: dict[str, float]) -> dict[str, float]:
        return {
            name: self.coefficient_of(name) / self.start * (0.5 if main < loss else 1.0)
            for name, loss in heads.items()
        }


class Race(HandoverSchedule):
    """One λ, halved when the output's loss fell by a larger share in the epoch than every head's,
    doubled (up to the start) when by a smaller one than the best head's."""

    def rule(self, main: float, heads: dict[str, float]) -> dict[str, float]:
        before, self.before = getattr(self, "before", None), {"main": main, **heads}
        now = next(iter(self.coefficients.values()), self.start) / self.start
        if before is None:
            return dict.fromkeys(heads, now)
        quotients = {name: self.before[name] / before[name] for name in self.before}
        ahead = quotients.pop("main") <= min(quotients.values())
        return dict.fromkeys(heads, now / 2 if ahead else min(1.0, 2 * now))


class ReadsGradients(HandoverSchedule, ABC):
    """One λ, what was found last in gradients after an epoch."""

    probed: float

    @abstractmethod
    def probe(self, model: nn.Module, batches: Batches) -> None:
        """Look at the gradients of these batches."""

    def rule(self, main: float, heads: dict[str, float]) -> dict[str, float]:
        return dict.fromkeys(heads, self.probed)


class GradientNorm(ReadsGradients):
    """One λ = min(1, |gradient of the heads' losses| / |that of the output's|), first layer."""

    def probe(self, model: nn.Module, batches: Batches) -> None:
        main, heads = first_layer_gradients(model, batches[0])
        norm = float(main.norm())
        self.probed = min(1.0, float(heads.norm()) / norm) if norm else 1.0


class Coherence(ReadsGradients):
    """One λ = 1 - the highest coherence so far of the output's gradient in the first layer."""

    def probe(self, model: nn.Module, batches: Batches) -> None:
        one, other = (first_layer_gradients(model, batch)[0] for batch in batches[:2])
        cosine = nn.functional.cosine_similarity(one, other, dim=0)
        self.probed = min(getattr(self, "probed", 1.0), 1 - max(0.0, float(cosine)))


RULES: dict[str, Callable[[float], HandoverSchedule]] = {
    "ratio-each": HandoverSchedule,  # λ of a head = min(1, m / h of that head)
    "ratio-squared": RatioSquared,
    "ratio-all": RatioAll,
    "ratio-best": RatioBest,
    "remaining": Remaining,
    "overtaken": Overtaken,
    "race": Race,
    "gradient-norm": GradientNorm,
    "coherence": Coherence,
}


def first_layer_gradients(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Gradients of the output's loss and of the sum of the heads', by the first layer's weights."""
    x, y = batch
    weight = next(module.weight for module in model.modules() if isinstance(module, nn.Conv2d))
    with preserved(model):
        main = nn.functional.cross_entropy(model(x).mean(0), y)
        logits = shortcut_logits(model).values()
        heads = torch.stack([nn.functional.cross_entropy(each, y) for each in logits]).sum()
        grads = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (main, heads)]
        functional.reset_net(model)
    return grads[0].flatten(), grads[1].flatten()
