"""The page of the study of costs, from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import pandas as pd

from analysis.common.pages import markdown
from analysis.overhead.attempts import RUNS
from analysis.overhead.cases import AGAIN, BEFORE, DEFAULT

__all__ = ["QUESTIONS", "write_page"]

WRAP_AIM_MS = 10.0

HEAD = """# What shortcut heads cost

Written by `analysis/overhead` from the tables beside it; do not edit.
{made_by}

A step is forward pass, loss and backward pass. Each way of doing it is taken once a round, in an
order drawn anew, in one process of one thread. Its time (on the CPU the process's own, which what
else runs disturbs less) is divided by that of the bare model in the same round. Given are the
median of these ratios and its 95 % bootstrap interval; rounds were added, up to a limit, while an
aim lay within it. Heads go into the model before their step and out again after it, so that bare
and wrapped are one object with the same weights in the same place. "{again}" is the bare model
measured twice, and tells how far from 1 two equals come out. Where the aim is 1.00, "yes" means
that the interval does not lie above 1; a median below 1 of heads against none is noise. The
processor was shared with other programs, and parts were measured at different times.

Memory is the most that tensors took at once: model, batch, and what the step allocates, which on
the CPU is added up from every single allocation and release. It is exact, and the same every time.

Networks are SpikingJelly's own, at full width, of LIF neurons, with inputs of 32 x 32 pixels and 10
classes unless said otherwise. Small batches make the heads' share larger, not smaller: part of it
does not grow with the batch.
"""

QUESTIONS = {
    "models": "Models",
    "time steps": "Time steps",
    "depth": "Depth, and time to wrap",
    "eval": "Eval mode",
    "removed": "After `remove_shortcuts`",
    "single-step": "Step mode 's'",
    "by hand": "Heads made by hand",
    "compiled": "`torch.compile`",
    "alone": "Before and after: the heads alone",
    "before": "Before and after: whole steps",
}

WORDS = {
    "models": """Default heads sit at the end of each stage but the last, and in between where a
stage is long; they average over 2 x 2 parts of the map.""",
    "time steps": """The same batch for longer: the heads' share should not grow. It falls, as part
of their cost is the same for any T, which shows where a step is as short as with T = 1.""",
    "depth": """Convolution, batch norm and LIF, 16 channels, 16 x 16 pixels; a head for every three
layers.""",
    "eval": """Inference without gradients, of copies with heads, which do not run, and without.
Measured first with heads put in right before each inference and taken out after it, it came to
1.014 [1.002, 1.018], and was then measured anew like this; whether that was the wrapping just
before, or chance, was not looked into.""",
    "removed": """A model that had heads for one training step, against one that never had. Before
measuring, both were found to have the same modules, hooks, attributes and keys.""",
    "single-step": "One call of the model a time step; the heads run at each.",
    "by hand": """At the same points as the default heads: on forward hooks that keep the tapped
output, a linear head at every time step; torchvision's `create_feature_extractor`, told to leave
SpikingJelly's modules whole, with the default head's formula; on hooks, a head of convolution,
batch norm and spiking neurons at every time step before average and linear layer, as we read the
authors' earlier work. The last rows divide our time by theirs: below 1, ours is faster.""",
    "compiled": """`torch.compile(..., dynamic=False)` with inductor, of copies of their own; the
loss is not compiled. Graph breaks are those that Dynamo counts while it compiles.""",
    "alone": f"""The default head sums over time, then over rows and columns of each part of the
map, and divides once, in the end: gradients of sums over time are views. "{BEFORE}" is a head
that is given the average over time and divides as it goes. Here both do forward and backward pass
on what the default points gave once, without the network. (A head over all of the map, `grid=1`,
sums over space first and writes next to nothing; on spiking_resnet18 such heads took 1.006
[1.001, 1.020].)""",
    "before": """The same in whole training steps, where it is too little to be seen: the last rows
divide the time after by that before. What remains of the cost: one pass over the features, and
one that writes their gradient for all time steps at once, some small kernels a head, and
autograd's sum of the two gradients that meet at a point, for which it makes a new tensor of the
features' size.""",
}


def write_page(tables: Mapping[str, pd.DataFrame], attempts: pd.DataFrame, made_by: str) -> str:
    """Markdown of everything there are rows for, one part a device."""
    parts = [HEAD.format(made_by=made_by, again=AGAIN)]
    for kind, table in tables.items():
        where = "the CPU" if kind == "cpu" else ", ".join(dict.fromkeys(table["device"]))
        parts.append(f"# On {where}\n\n![Costs of shortcut heads](heads_{kind}.png)\n")
        parts.append("## Aims\n\n" + markdown(aims(table)))
        for group, title in QUESTIONS.items():
            rows = table[table["group"] == group]
            if len(rows):
                parts.append(f"## {title}\n\n{WORDS[group]}\n\n{markdown(details(rows))}")
    parts.append(where_it_runs(attempts))
    return "\n".join(part for part in parts if part)


# Aims.


def aims(table: pd.DataFrame) -> pd.DataFrame:
    """Every aim of the study, what came out, and whether that meets it."""
    rows: list[tuple[str, ...]] = []
    for _, row in table.iterrows():
        if pd.notna(row["aim"]):
            rows.append((_label(row), f"time ≤ {row['aim']:.2f}", _ratio(row), _verdict(row)))
        if pd.notna(row["memory_aim"]):
            met = round(row["memory_ratio"], 4) <= row["memory_aim"]
            ratio = f"{row['memory_ratio']:.4f}"
            rows.append((_label(row), f"memory ≤ {row['memory_aim']:.2f}", ratio, _yes(met)))
    rows += [*_growth(table), *_linear(table), *_wrapping(table), *_breaks(table)]
    return pd.DataFrame(rows, columns=["case", "aim", "measured", "met"])


def _verdict(row: pd.Series) -> str:
    if row["aim"] == 1.0:  # of equals, half come out above
        return _yes(row["ratio_low"] <= 1.0)
    if row["ratio_high"] <= row["aim"] or row["ratio_low"] > row["aim"]:
        return _yes(row["ratio"] <= row["aim"])
    return f"{_yes(row['ratio'] <= row['aim'])}, but within noise"


def _growth(table: pd.DataFrame) -> list[tuple[str, ...]]:
    rows = table[(table["group"] == "time steps") & (table["way"] == DEFAULT)].sort_values("T")
    if len(rows) < 2:
        return []
    grows = [
        f"{one['ratio']:.3f} at T={one['T']}, {other['ratio']:.3f} at T={other['T']}"
        for (_, one), (_, other) in combinations(rows.iterrows(), 2)
        if other["ratio_low"] > one["ratio_high"]
    ]
    ends = rows.iloc[[0, -1]]
    came = "; ".join(grows) or " to ".join(f"{_ratio(row)}" for _, row in ends.iterrows())
    name = f"{rows['net'].iloc[0]}, T = {ends['T'].iloc[0]} to {ends['T'].iloc[1]}"
    return [(name, "the ratio does not grow with T", came, _yes(not grows))]


def _linear(table: pd.DataFrame) -> list[tuple[str, ...]]:
    rows = table[(table["group"] == "depth") & (table["heads"] > 0)].sort_values("heads")
    if len(rows) < 2:
        return []
    cost, low, high = (rows[f"extra_{key}"] / rows["heads"] for key in ("ms", "low", "high"))
    came = ", ".join(f"{value:.2f}" for value in cost)
    grew = low.iloc[-1] > high.iloc[:-1].max()
    return [("depth", "cost linear in heads", f"{came} ms a head", _yes(not grew))]


def _wrapping(table: pd.DataFrame) -> list[tuple[str, ...]]:
    rows = table[table["wrap_ms"].notna()]
    if rows.empty:
        return []
    worst = rows.sort_values("wrap_ms", kind="stable").iloc[-1]
    came = f"at most {worst['wrap_ms']:.2f} ms ({_label(worst)})"
    met = _yes(worst["wrap_ms"] <= WRAP_AIM_MS)
    return [("all", f"wrapping ≤ {WRAP_AIM_MS:.0f} ms a head", came, met)]


def _breaks(table: pd.DataFrame) -> list[tuple[str, ...]]:
    rows = table[table["group"] == "compiled"]
    found: list[tuple[str, ...]] = []
    for net, own in rows.groupby("net", sort=False):
        breaks = own["graph_breaks"].astype(int)
        met = _yes(breaks.max() <= breaks.iloc[0])
        found.append((f"{net}, compiled", "no extra graph break", f"{breaks.max()}", met))
    return found


# Tables.


def details(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one question, as a reader wants them."""
    rows = rows[(rows["way"] != "bare") & (rows["way"] != rows["reference"])]
    reference = rows["reference"].where(rows["reference"] != "bare", "")
    against = [f" to {name}" if name else "" for name in reference]
    shown = pd.DataFrame(
        {
            "network": rows["net"],
            "T": rows["T"],
            "N": rows["batch"],
            "way": [way + more for way, more in zip(rows["way"], against, strict=True)],
            "heads": [_integer(heads) for heads in rows["heads"]],
            "time": [_ratio(row) for _, row in rows.iterrows()],
            "difference, ms": rows["extra_ms"].map("{:+.2f}".format),
            "step, ms": rows["ms"].map("{:.0f}".format),
            "rounds": rows["rounds"],
            "memory": rows["memory_ratio"].map("{:.4f}".format),
            "MiB": rows["MiB"].map("{:.1f}".format),
            "wrapping, ms a head": [_number(value) for value in rows["wrap_ms"]],
            "graph breaks": [_integer(value) for value in rows["graph_breaks"]],
        }
    )
    return shown.loc[:, [(shown[column] != "").any() for column in shown]]


def where_it_runs(attempts: pd.DataFrame) -> str:
    """What could not run, with the error."""
    failed = attempts[attempts["outcome"] != RUNS]
    counts = attempts.assign(ran=attempts["outcome"] == RUNS).groupby("way", sort=False)["ran"]
    shown = pd.DataFrame(
        [(way, f"{ran.sum()} of {len(ran)}") for way, ran in counts], columns=["way", "runs"]
    )
    grouped = failed.groupby(["way", "outcome"], sort=False)
    errors = pd.DataFrame(
        [
            (way, ", ".join(dict.fromkeys(rows["net"])), _settings(rows), f"`{outcome}`")
            for (way, outcome), rows in grouped
        ],
        columns=["way", "networks", "settings", "error"],
    )
    return (
        "# Where each can run at all\n\n"
        "A training step in step modes 'm' and 's', and a forward pass compiled with "
        "`fullgraph=True`, tried with each network.\n\n"
        f"{markdown(shown)}\n{markdown(errors) if len(errors) else ''}"
    )


def _settings(rows: pd.DataFrame) -> str:
    pairs = [
        setting if setting == "torch.compile" else f"{setting} in '{mode}'"
        for setting, mode in zip(rows["setting"], rows["mode"], strict=True)
    ]
    return ", ".join(dict.fromkeys(pairs))


def _label(row: pd.Series) -> str:
    mode = ", step mode 's'" if row["mode"] == "s" else ""
    compiled = ", compiled" if row["group"] == "compiled" else ""
    against = f" to {row['reference']}" if row["reference"] != "bare" else ""
    return f"{row['net']}{mode}{compiled}: {row['way']}{against}"


def _ratio(row: pd.Series) -> str:
    return f"{row['ratio']:.3f} [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}]"


def _yes(met: bool) -> str:
    return "yes" if met else "**no**"


def _integer(value: float) -> str:
    return "" if pd.isna(value) else str(int(value))


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"
