"""Energy of operations, by constants that are printed wherever they are used."""

from __future__ import annotations

__all__ = ["ACCUMULATE_PJ", "MULTIPLY_ACCUMULATE_PJ", "SOURCE", "energy_pj"]

ACCUMULATE_PJ = 0.9
MULTIPLY_ACCUMULATE_PJ = 4.6
SOURCE = (
    f"energy_pj: {ACCUMULATE_PJ} pJ an accumulate (synops), {MULTIPLY_ACCUMULATE_PJ} pJ a "
    "multiply-accumulate (macs), of 32-bit floating-point numbers at 45 nm: M. Horowitz, "
    "Computing's energy problem (and what we can do about it), ISSCC 2014. Arithmetic alone: "
    "memory traffic, most often the larger part, and the updates of membrane potentials are left "
    "out. It compares spiking networks with each other; it is no measurement, and says nothing "
    "about networks without spikes."
)


def energy_pj(synops: float, macs: float) -> float:
    """Energy of the arithmetic of a layer, in pJ; NaN where it does none.

    Example:
        >>> energy_pj(100, 0), energy_pj(0, 100)
        (90.0, 460.0)
    """
    return round(ACCUMULATE_PJ * synops + MULTIPLY_ACCUMULATE_PJ * macs, 6)
