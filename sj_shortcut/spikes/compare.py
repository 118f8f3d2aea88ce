"""Set two reports of spikes side by side."""

from __future__ import annotations

import pandas as pd

from sj_shortcut.spikes.columns import COUNTS, LABELS, SHARES, check_frame

__all__ = ["TOTAL", "compare_spikes"]

# What the last row of a comparison is called.
TOTAL = "(total)"


def compare_spikes(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Set two reports of one network side by side, layer by layer and in all.

    Args:
        before: As from :func:`spike_report`, of one run.
        after: Likewise, of the same network: trained otherwise, say.

    Returns:
        One row a layer, in order of depth, and a last row ``"(total)"``. For ``spikes``,
        ``synops``, ``macs`` and, where both have it, ``energy_pj`` the columns ``..._before``,
        ``..._after`` and ``..._ratio`` (after / before; NaN where there is nothing before); for
        ``firing_rate``, ``silent`` and ``saturated`` the first two. Shares have no total, but for
        the firing rate, which is that over all neurons where their number is known.

    Raises:
        TypeError: If an argument is no DataFrame.
        ValueError: If one is no report, or of several runs, or if they have no layer in common.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikingjelly.activation_based import layer, neuron
        >>> from sj_shortcut import spike_report
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.IFNode(), layer.Linear(16, 2))
        >>> batch = 5 * torch.rand(4, 3, 8), torch.tensor([0, 1, 0])
        >>> before = spike_report(model, batch)
        >>> table = compare_spikes(before, before)
        >>> table[["layer", "kind", "macs_before", "macs_after", "macs_ratio"]]
             layer     kind  macs_before  macs_after  macs_ratio
        0        0  weights        512.0       512.0         1.0
        1        1  neurons          NaN         NaN         NaN
        2        2  weights          0.0         0.0         NaN
        3  (total)                 512.0       512.0         1.0
    """
    check_frame(before, "before")
    check_frame(after, "after")
    common = set(before["layer"]) & set(after["layer"])
    if not common:
        raise ValueError(
            "before and after have no layer in common: compare reports of one network."
        )
    sides = {"before": before.set_index("layer"), "after": after.set_index("layer")}
    order = [*before["layer"], *(name for name in after["layer"] if name not in common)]
    facts = sides["before"].combine_first(sides["after"])
    names = [name for name in (*SHARES, *COUNTS) if all(name in side for side in sides.values())]
    names.sort(key=list(LABELS).index)
    table = facts.loc[order, ["depth", "module", "kind"]].reset_index()
    total: dict[str, object] = {"layer": TOTAL, "module": "", "kind": ""}
    for name in names:
        for side, frame in sides.items():
            table[f"{name}_{side}"] = frame[name].reindex(order).to_numpy(float)
            total[f"{name}_{side}"] = _total(frame, name)
    table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
    return _with_ratios(table, [name for name in names if name in COUNTS])


def _with_ratios(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """After each pair of columns a third."""
    columns = list(table.columns)
    for name in names:
        before = table[f"{name}_before"]
        table[f"{name}_ratio"] = table[f"{name}_after"] / before.where(before != 0)
        columns.insert(columns.index(f"{name}_after") + 1, f"{name}_ratio")
    return table[columns]


def _total(frame: pd.DataFrame, name: str) -> float:
    if name in COUNTS:
        return float(frame[name].sum(min_count=1))
    if name != "firing_rate":
        return float("nan")
    places = (frame["neurons"] * frame["steps"])[frame["kind"] == "neurons"]
    return float(frame["spikes"].sum() / places.sum(skipna=False))
