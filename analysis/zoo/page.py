"""The page of the table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from analysis.zoo.models import Entry, entries

__all__ = ["page", "verdict"]

Results = Mapping[str, Mapping[str, Any]]

_HEAD = """\
# SpikingJelly's models and example networks, and where their heads are

Written by `python -m analysis.zoo --other FOLDER` (FOLDER holds the other generation), with PyTorch
{torch} on a CPU. Every model of `spikingjelly.activation_based.model` and every spiking network of
`spikingjelly.activation_based.examples` is wrapped and trained for one step, on small inputs. The
program calls it right when

- every head sits at a spiking layer, or a block with some, that leads to the output by autograd;
- its logits are those computed by hand from the tapped features, on the axes and channels read from
  the network's source;
- each head by itself hands a gradient to the network, and the training step gives all of its
  parameters theirs;
- removal leaves the keys and parameters that were there before.

"alone" is right by `wrap_with_shortcuts(model)`. "refused" is an error that says why no head is put
in by itself, and that is so. Where one generation is given, the other has no such network or gives
another row. Parameters are those of heads with `grid=2`, as a share of the model's own; where that
is more than 10 %, heads have `grid=1` by default, where it is 2.5 % or less mostly `grid=4`.

{counts}

| Model or network | Heads of `"auto"` | Parameters | Right | SpikingJelly |
|---|---|---|---|---|
"""

_END = """
Not in the table: `lynxi_fmnist_inference.InferenceNet`, which runs compiled parts on Lynxi's chips
alone; `a2c`, `ppo` and `dqn_state`, whose networks have no neuron that spikes;
`plasticity.stdp_mnist`, which is trained without gradients; the stages of a whole Spikformer in
`profiling.nsys_multigpu`; and `train_imagenet`, `train_classify` and `train_flexsn_compile`, which
train models of this table (the last with a `FlexSN`, which has a row).
"""


def page(found: Mapping[str, Results]) -> str:
    """The page, in Markdown.

    Args:
        found: Results by version of SpikingJelly and name.
    """
    all_entries = entries()
    counts = "\n".join(_count(version, found[version], all_entries) for version in found)
    rows = [line for entry in all_entries for line in _lines(entry, found)]
    absent = _absent(found, all_entries)
    return _HEAD.format(torch=torch.__version__, counts=counts) + "\n".join(rows) + "\n" + (
        absent + _not_run(found, all_entries) + _END
    )  # fmt: skip


def verdict(entry: Entry, result: Mapping[str, Any]) -> str:
    """In words of the table."""
    said = str(result["verdict"])
    if said == "refused":
        fits = entry.refusal and re.search(entry.refusal, str(result["text"]))
        return f"refused: {entry.why}" if fits else f"**no**: {_short(result)}"
    if said == "wrong":
        return f"**no**: {_short(result)}"
    if said == "slow":
        return f"not known: {result['text']}"
    return {"alone": "alone", "example": "with `example_input=`"}.get(said, said)


def _short(result: Mapping[str, Any]) -> str:
    return str(result["text"]).strip().replace("\n", " ").replace("|", "/")[:150]


def _count(version: str, results: Results, all_entries: list[Entry]) -> str:
    words = Counter(
        verdict(entry, results[entry.name]).split(":")[0].strip("*")
        for entry in all_entries
        if entry.name in results and results[entry.name]["verdict"] != "absent"
    )
    parts = ", ".join(f"{count} {word}" for word, count in words.most_common())
    return f"- SpikingJelly {version}: {sum(words.values())} networks: {parts}."


def _lines(entry: Entry, found: Mapping[str, Results]) -> list[str]:
    """One row, or one for each generation where they differ."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for version, results in found.items():
        result = results.get(entry.name)
        if result is None or result["verdict"] == "absent":
            continue
        heads = ", ".join(f"`{name}`" for name in result.get("heads", ())) or "-"
        share = f"{100 * result['share']:.1f} %" if "share" in result else "-"
        rows.setdefault((heads, share, verdict(entry, result)), []).append(version)
    return [
        f"| `{entry.name}` | {' | '.join(cells)} | {', '.join(versions)} |"
        for cells, versions in rows.items()
    ]


def _not_run(found: Mapping[str, Results], all_entries: list[Entry]) -> str:
    """What has no result yet, for each generation; the command goes on with them."""
    lines = []
    for version, results in found.items():
        names = [entry.name for entry in all_entries if entry.name not in results]
        if names:
            lines.append(f"\nNot run yet with SpikingJelly {version}: {', '.join(names)}.\n")
    return "".join(lines)


def _absent(found: Mapping[str, Results], all_entries: list[Entry]) -> str:
    nowhere = [
        entry.name
        for entry in all_entries
        if all(results.get(entry.name, {}).get("verdict") == "absent" for results in found.values())
    ]
    if not nowhere:
        return ""
    return f"\nNot made here, for want of a package that it needs: {', '.join(nowhere)}.\n"
