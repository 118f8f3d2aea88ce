"""The price itself: a penalty on what each spiking layer fires beyond its target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from sj_shortcut.price.hooks import has_price, put_hooks_on, without_hooks
from sj_shortcut.price.rates import Rates, rates_behind
from sj_shortcut.price.watch import Watch, is_due
from sj_shortcut.torch_model import NO_DATA_PARALLEL, bare_model, is_distributed, world_size

__all__ = ["SpikePrice"]

# A layer that hardly fires untrained has to fire more for the network to learn: targets below this
# silence networks.
_LEAST = 0.05
# Small tensors to keep on the device.
_KEPT = 64


class SpikePrice(nn.Module):
    r"""A price on spikes, to be added to any loss while a network trains.

    With the rate :math:`\rho_l` of spiking layer l, the mean of its outputs over neurons, samples
    and time steps, its target :math:`r_l` and its weight :math:`w_l`,

    .. math::
        P = \mu \sum_l w_l \max(0, \rho_l / r_l - 1)^2

    Gradients go through the surrogates of the layers. :math:`w_l` is the share of layer l in the
    most synaptic operations that there could be (all firing all the time), seen in one pass before
    the first training batch; all are alike where that cannot be seen. :math:`r_l` is by default
    what the layer fires in the first training batch, so before anything was learnt, but 0.05 at
    least: there is no number to choose.

    A price on synaptic operations is that of Sorbaro et al., "Optimizing the Energy Consumption of
    Spiking Neural Networks for Neuromorphic Applications" (Frontiers in Neuroscience 2020), there
    on their sum in all; weighing each layer's spikes by the synapses that they reach is that of
    Suetake et al., "Spiking Synaptic Penalty" (arXiv 2302.01500, 2023). An upper bound, below which
    firing is free, is one of activity regularization, as in Zenke and Vogels, "The Remarkable
    Robustness of Surrogate Gradient Learning for Instilling Complex Function in Spiking Neural
    Networks" (Neural Computation 2021). A bound for each layer, taken from the untrained network,
    is ours.

    In eval mode, and without gradients, it is 0. Vanilla networks pay for it in accuracy more than
    those with shortcut heads do.

    Args:
        model: The model, which gets hooks on its spiking layers that :func:`remove_price` and
            ``remove_shortcuts`` take off. Not for ``torch.compile``.
        strength: :math:`\mu`, constant from the first step on.
        factor: Of the untrained rates, what is free of charge; below 1 saves more.
        rate: One target for all layers instead; 0.05 and less are known to silence networks.
        neuron_types: Your own spiking neuron classes, if they do not derive from SpikingJelly's.

    Attributes:
        names: The spiking layers.
        targets: Target of each by name; ``None`` before the first training batch.
        rates: What each fired in the last batch; likewise.
        shares: The weight of each; ``None`` before the first training batch.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one has a wrong value, or the model has no spiking layer, or a price already.

    Example:
        >>> from spikingjelly.activation_based import layer, neuron
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4),
        ...                       neuron.LIFNode(), layer.Linear(4, 2))
        >>> criterion, price = nn.CrossEntropyLoss(), SpikePrice(model)
        >>> output = model(5 * torch.rand(3, 8))
        >>> loss = criterion(output, torch.tensor([0, 1, 0])) + price(output)
        >>> loss.backward()
        >>> {name: round(share, 2) for name, share in price.shares.items()}
        {'1': 0.89, '3': 0.11}
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: float = 1.0,
        factor: float = 1.0,
        rate: float | None = None,
        neuron_types: tuple[type, ...] = (),
    ) -> None:
        super().__init__()
        if isinstance(model, nn.DataParallel):
            raise TypeError(NO_DATA_PARALLEL)
        bare, _ = bare_model(model)
        self.strength = _number("strength", strength, least=0.0)
        self.factor = _number("factor", factor)
        self.rate = None if rate is None else _number("rate", rate)
        if rate is not None and factor != 1:
            raise ValueError("factor= is of the untrained rates, and rate= is instead of them.")
        if has_price(bare):
            raise ValueError(
                f"{type(bare).__name__} has a price on its spikes already: use that one, or call "
                "remove_price(model) first."
            )
        self._root = (bare,)  # in a tuple: the price does not own the model
        self._spending = put_hooks_on(bare, neuron_types)
        self.names = self._spending.names
        self._untrained: Tensor | None = None
        self._last: tuple[Tensor, tuple[int, ...]] | None = None
        self._sent: dict[Any, Tensor] = {}
        self._losses = 0
        self._watch = Watch(self.names)

    @property
    def targets(self) -> dict[str, float] | None:
        """Target of each layer."""
        own = self._untrained
        return None if own is None else self._by_name(self._target_of(own))

    @property
    def rates(self) -> dict[str, float] | None:
        """What each layer fired in the last batch."""
        if self._last is None:
            return None
        sums, counts = self._last
        return self._by_name(sums * sums.new_tensor(_inverse(counts)))

    @property
    def shares(self) -> dict[str, float] | None:
        """Weight of each layer."""
        return (
            None if self._untrained is None else dict(zip(self.names, self._weights(), strict=True))
        )

    def forward(self, output: Tensor, loss: Tensor | None = None) -> Tensor:
        """The price of the forwards that an output comes from.

        Args:
            output: The model's output, or what was made of it: ``model(x).mean(0)``, say.
            loss: The cross-entropy of it, for a warning where that does not learn; changes nothing.

        Returns:
            A scalar, 0 in eval mode and without gradients.

        Raises:
            RuntimeError: If the output comes from no forward of the model, with the reason.
        """
        if not (self._root[0].training and torch.is_grad_enabled() and output.requires_grad):
            return output.new_zeros(())
        records = rates_behind(output)
        self._check(records)
        sums, counts = self._sums(records)
        if self._untrained is None:
            self._untrained = self._measured(sums.detach() * self._on(sums, _inverse(counts)))
        elif self._untrained.device != sums.device:  # after a checkpoint
            self._untrained = self._untrained.to(sums.device)
        minus_one = self._on(sums, [-1.0] * len(counts))
        excess = torch.addcmul(minus_one, sums, self._per_target(sums, counts)).relu()
        priced = self._on(sums, [self.strength * share for share in self._weights()])
        price = torch.dot(excess * priced, excess)
        self._oversee(records, sums, counts, price, loss, output)
        return price

    def is_of(self, model: nn.Module) -> bool:
        """Whether it was made for a model, or for one that holds it."""
        return any(module is model for module in self._root[0].modules())

    def get_extra_state(self) -> dict[str, Any]:
        """What was measured of the untrained network, as numbers and strings."""
        own = self._untrained
        return {
            "layers": list(self.names),
            "untrained": None if own is None else own.tolist(),
            "shares": self._spending.shares,
            "dead": self._watch.dead,
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take over what was measured; ``load_state_dict`` calls this.

        Raises:
            ValueError: If it is of other layers.
        """
        if state["layers"] != self.names:
            raise ValueError(
                f"the state is of a price on {len(state['layers'])} other spiking layers "
                f"({', '.join(state['layers'][:3])}, ...): load that of the same network."
            )
        own = state["untrained"]
        self._untrained = None if own is None else torch.tensor(own)
        self._spending.shares = state["shares"]
        self._spending.looked = state["untrained"] is not None
        self._watch.dead = state["dead"]
        self._sent.clear()  # targets among them

    def extra_repr(self) -> str:
        """The options, for ``print``."""
        target = f"factor={self.factor}" if self.rate is None else f"rate={self.rate}"
        return f"strength={self.strength}, {target}, layers={len(self.names)}"

    def _check(self, records: Sequence[Rates]) -> None:
        if records and all(record.owner is self._spending for record in records):
            self._watch.blocked([i for record in records for i in record.blocked])
            self._watch.twice(any(record.priced for record in records))
            for record in records:
                record.priced = True
            return
        if records:
            raise RuntimeError(
                "this output comes from another model than the one that this SpikePrice was made "
                "for: make one for each."
            )
        raise RuntimeError(
            "this output does not come from a forward pass of the model that noted its spikes: "
            "give the price the output of model(x), and call model.train() before. torch.compile, "
            "and a checkpoint around the model with use_reentrant=True, leave hooks out; "
            "remove_price and remove_shortcuts take them off."
        )

    def _sums(self, records: Sequence[Rates]) -> tuple[Tensor, tuple[int, ...]]:
        """Of each layer the sum of its spikes ``[L]``, and the number of its outputs."""
        layers = range(len(self.names))
        calls = [[x for r in records for x in r.sums.get(i, ())] for i in layers]
        counts = tuple(sum(r.sizes.get(i, 0) for r in records) for i in layers)
        each = {len(sums) for sums in calls}
        if each == {1}:
            return torch.stack([sums[0] for sums in calls]), counts
        if len(each) == 1 and each != {0}:
            return torch.stack([x for sums in calls for x in sums]).view(len(calls), -1).sum(
                1
            ), counts
        some = next((sums[0] for sums in calls if sums), torch.zeros(()))
        nothing = torch.zeros_like(some, requires_grad=False)  # of a layer that was left out
        return torch.stack([torch.stack(sums or [nothing]).sum() for sums in calls]), counts

    def _measured(self, rates: Tensor) -> Tensor:
        """The rates of the first batch, over all processes."""
        if is_distributed():
            rates = rates.clone()
            torch.distributed.all_reduce(rates)
            rates = rates / world_size()
        return rates

    def _target_of(self, own: Tensor) -> Tensor:
        if self.rate is not None:
            return torch.full_like(own, self.rate)
        return own.clamp(min=_LEAST) * self.factor

    def _weights(self) -> list[float]:
        shares = self._spending.shares
        return shares if shares is not None else [1 / len(self.names)] * len(self.names)

    def _per_target(self, sums: Tensor, counts: tuple[int, ...]) -> Tensor:
        """One over outputs times target: what a sum of spikes is multiplied by."""
        key = ("per target", self.factor, self.rate, counts, sums.dtype, sums.device)
        if key not in self._sent:
            assert self._untrained is not None
            target = self._target_of(self._untrained).to(sums.dtype)
            self._sent[key] = self._on(sums, _inverse(counts)) / target
        return self._sent[key]

    def _on(self, like: Tensor, values: Sequence[float]) -> Tensor:
        """Numbers as a tensor where another is, sent there once."""
        key = (tuple(values), like.dtype, like.device)
        if key not in self._sent:
            if len(self._sent) > _KEPT:  # batches of ever other sizes
                self._sent.clear()
            # From pinned memory, so as not to wait for the device.
            kind: Any = {"dtype": like.dtype, "device": "cpu", "pin_memory": like.is_cuda}
            sent = torch.tensor(list(values), **kind)
            self._sent[key] = sent.to(like.device, non_blocking=True)
        return self._sent[key]

    def _by_name(self, values: Tensor) -> dict[str, float]:
        return dict(zip(self.names, values.tolist(), strict=True))

    def _oversee(
        self,
        records: Sequence[Rates],
        sums: Tensor,
        counts: tuple[int, ...],
        price: Tensor,
        loss: Tensor | None,
        output: Tensor,
    ) -> None:
        self._last = sums.detach(), counts
        self._watch.read()
        if all(record.looking for record in records) and is_due(self._losses):
            self._watch.unseen(without_hooks(self._root[0], self.names, counts))
            with torch.no_grad():
                own = self._untrained
                assert own is not None
                rates = sums * self._on(sums, _inverse(counts))
                layers = (rates, self._target_of(own), own, self._on(sums, self._weights()))
                values = (
                    *layers,
                    self._dead(records, rates),
                    price,
                    price if loss is None else loss,
                    self._sound(records, output, own),
                )
                guessing = math.inf if loss is None else math.log(output.shape[-1])
                self._watch.look(values, guessing)
        self._losses += 1
        self._spending.looking = is_due(self._losses)

    def _sound(self, records: Sequence[Rates], output: Tensor, own: Tensor) -> Tensor:
        """Whether targets can be taken from this batch, where they are."""
        seen = [output.isfinite().all(), own.any(), *(x for r in records for x in r.finite)]
        return torch.stack([x.to(own.device) for x in seen]).all() | (self.rate is not None)

    def _dead(self, records: Sequence[Rates], rates: Tensor) -> Tensor:
        """Of each layer the share of channels that fired at no step of any sample."""
        found = []
        for index in range(len(self.names)):
            fired = [record.fired[index] for record in records if index in record.fired]
            dead = ~torch.stack(fired).any(0) if fired else rates.new_full((), math.nan)
            found.append(dead.to(rates.dtype).mean())
        return torch.stack(found)


def _inverse(counts: Sequence[int]) -> list[float]:
    return [1 / count if count else 0.0 for count in counts]


def _number(name: str, value: Any, least: float | None = None) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    number = float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and least is None):
        bound = "above 0" if least is None else f"at least {least:g}"
        raise ValueError(f"{name} must be finite and {bound}, got {value!r}.")
    return number
