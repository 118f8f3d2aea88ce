"""Notice where a price silences a network, without waiting for the device in a training step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sj_shortcut.torch_model import Later, ShortcutWarning

__all__ = ["Watch", "is_due"]

# Losses from which on a look is taken, at powers of two; the first one tells what is untrained.
_FIRST_LOOK = 32
# Of its target, or of its own untrained rate where that is less, a layer should keep this much.
_THIRD = 1 / 3
# So many more channels may be dead than were in the untrained network, as a share.
_MORE_DEAD = 0.25
# A loss above this share of that of guessing is one of guessing.
_CHANCE = 0.95
# A price that keeps this share from one look to the next does not fall.
_FALLS = 0.9


def is_due(losses: int) -> bool:
    """Whether the loss after so many is one to look at: the first, then ever more rarely."""
    following = losses + 1
    return not losses or (following >= _FIRST_LOOK and not following & losses)


class Watch:
    """Looks at what was fired, and tells once of what is amiss.

    Args:
        names: The spiking layers.

    Attributes:
        dead: Share of dead channels of each layer in the untrained network; NaN where not known,
            ``None`` before the first look.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.dead: list[float] | None = None
        self._waiting: tuple[Later, float] | None = None
        self._before: tuple[float, float] | None = None
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_waiting": None}  # what waits for a device cannot be copied

    def blocked(self, layers: Sequence[int]) -> None:
        """Tell of layers that ran without gradients in a forward that has them.

        Args:
            layers: Which; none where all is well.

        Warns:
            ShortcutWarning: Once, if there are any.
        """
        if layers:
            self._tell(
                "blocked",
                f"'{self.names[layers[0]]}' ran without gradients inside a model that has them, as "
                "under torch.no_grad, or torch.utils.checkpoint with use_reentrant=True: the price "
                "counts what it fires, and cannot lower it. Pass use_reentrant=False.",
            )

    def twice(self, again: bool) -> None:
        """Tell of a forward whose price is taken a second time.

        Args:
            again: Whether it is.

        Warns:
            ShortcutWarning: Once, if it is.
        """
        if again:
            self._tell(
                "twice",
                "the price of one forward pass was taken twice, and counts twice where both are "
                "added up: ShortcutLoss(..., price=...) adds it by itself, so leave your own "
                'price(output) out. (To look at it, read criterion.parts["price"].)',
            )

    def unseen(self, layers: Sequence[str]) -> None:
        """Tell of layers that are no longer where the price put its hooks.

        Args:
            layers: Which; none where all is well.

        Warns:
            ShortcutWarning: Once, if there are any.
        """
        if layers:
            self._tell(
                "unseen",
                f"'{layers[0]}' was replaced after the price was made, and what fires there costs "
                "nothing: take the price off with remove_price(model) and make it, and the loss "
                "that holds it, once the model is as it shall train.",
            )

    def look(self, values: Sequence[Tensor], chance: float) -> None:
        """Have the device put together what a later call reads.

        Args:
            values: Of all layers what they fire ``[L]``, their targets, their own untrained rates,
                whether they have a share, and their shares of dead channels; the price, the task
                loss, and whether targets can be taken from such a batch, of no axis.
            chance: Task loss of guessing; infinite where it is not known.
        """
        flat = [value.detach().reshape(-1).double() for value in values]
        self._waiting = Later(torch.cat(flat)), chance

    def read(self) -> None:
        """Judge what was put together, if the device has got there.

        Warns:
            ShortcutWarning: Of what is amiss, each once.
        """
        if self._waiting is None:
            return
        later, chance = self._waiting
        found = later.read()
        if found is None:
            return
        self._waiting = None
        *layers, (price, loss, sound) = found[:-3].reshape(5, -1).tolist(), found[-3:].tolist()
        fired, targets, own, shares, dead = layers[0]
        if self.dead is None:
            self.dead = dead
            self._untrained(bool(sound))
        else:
            self._silenced(fired, targets, own, shares)
            self._died(dead, self.dead)
            self._stuck(price, loss, chance)

    def _untrained(self, sound: bool) -> None:
        if not sound:
            self._tell(
                "first batch",
                "in the first batch of the price no layer fired, or it was not finite, and the "
                "targets of the whole training come from it. Take the price off with "
                "remove_price(model), and make it, and the loss that holds it, anew: its first "
                "batch has to be one like all others. Or give one target, rate=.",
            )

    def _silenced(
        self, fired: list[float], targets: list[float], own: list[float], shares: list[float]
    ) -> None:
        low = [
            i
            for i, rate in enumerate(fired)
            if shares[i] and rate < _THIRD * min(targets[i], own[i])
        ]
        if low:
            worst = min(low, key=lambda i: fired[i] / targets[i])
            self._tell(
                "silenced",
                f"{len(low)} of {len(fired)} spiking layers fire less than a third of their target "
                f"('{self.names[worst]}' {fired[worst]:.3g} for {targets[worst]:.3g}): the price "
                "does not ask for that, and layers so silent may pass nothing on. Look at the "
                "accuracy; a higher factor=, or a lower strength=, leaves them more.",
            )

    def _died(self, dead: list[float], before: list[float]) -> None:
        more = [now - then for now, then in zip(dead, before, strict=True)]
        worst = max(range(len(more)), key=lambda i: (-math.inf, more[i])[more[i] == more[i]])
        if more[worst] > _MORE_DEAD:
            self._tell(
                "dead",
                f"'{self.names[worst]}' has {dead[worst]:.0%} dead channels, which did not fire "
                f"once in this batch, and had {before[worst]:.0%} untrained: a price that high "
                "silences channels for good. Lower strength=, or raise factor= or rate=.",
            )

    def _stuck(self, price: float, loss: float, chance: float) -> None:
        before, self._before = self._before, (price, loss)
        stays = before is not None and price > 0 and price >= _FALLS * before[0]
        if stays and before is not None and min(loss, before[1]) > _CHANCE * chance:
            self._tell(
                "stuck",
                f"the price on spikes does not fall ({before[0]:.3g}, now {price:.3g}) and the "
                f"loss stays that of guessing ({loss:.3g}): the network may have been silenced "
                "while its first layers fire on. Lower strength=, or raise factor= or rate=.",
            )

    def _tell(self, key: str, message: str) -> None:
        if key not in self._said:
            self._said.add(key)
            warnings.warn(message, ShortcutWarning, stacklevel=6)
