"""Wrap one of SpikingJelly's networks, train it for a step, and compare with heads by hand.

python -m analysis.zoo.check NAME
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from analysis.zoo.models import Entry, entries
from sj_shortcut import (
    ConstantSchedule,
    ShortcutLoss,
    ShortcutWarning,
    remove_shortcuts,
    shortcut_branches,
    shortcut_logits,
    wrap_with_shortcuts,
)

__all__ = ["check"]

Result = dict[str, Any]


def check(entry: Entry) -> Result:
    """What came of one network.

    Returns:
        ``verdict``: "alone", "example" or "with ..." where it is right so, "refused", "absent", or
        "wrong"; with ``heads``, ``share`` of the parameters, and ``text`` to say more.
    """
    start = time.monotonic()
    try:
        model = entry.built()
    except (ImportError, AttributeError, FileNotFoundError, KeyError) as error:
        return {"verdict": "absent", "text": f"{type(error).__name__}: {error}"}
    result: Result = {"verdict": "wrong", "text": ""}
    for verdict in ("alone", "example", "argument"):
        if verdict == "argument" and entry.wrap is None:
            break
        model = model if verdict == "alone" else entry.built()
        options = _options(entry, model, verdict)
        said = f"with {', '.join(f'`{name}=`' for name in options)}"
        try:
            result = {"verdict": said if verdict == "argument" else verdict}
            result |= _wrapped_right(entry, model, options)
        except AssertionError as error:
            result = {"verdict": "wrong", "text": f"{error}"}
        except (ValueError, TypeError, RuntimeError) as error:
            ours = _is_ours(error)
            result = {"verdict": "refused" if ours else "wrong", "text": f"{error}"}
            result["text"] = ("" if ours else f"{type(error).__name__}: ") + result["text"]
            continue
        break
    return {**result, "seconds": round(time.monotonic() - start, 1)}


def _options(entry: Entry, model: nn.Module, verdict: str) -> dict[str, Any]:
    if verdict == "argument" and entry.wrap is not None:
        return entry.wrap(model)
    x = entry.input()
    return {"example_input": x[0] if entry.loop else x} if verdict == "example" else {}


def _is_ours(error: BaseException) -> bool:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and "sj_shortcut" in last.tb_frame.f_code.co_filename


def _wrapped_right(entry: Entry, model: nn.Module, options: Mapping[str, Any]) -> Result:
    own = sum(p.numel() for p in model.parameters())
    keys, tensors = list(model.state_dict()), [id(p) for p in model.parameters()]
    wrap_with_shortcuts(model, grid=2, **options)  # wrong parts would show; a mean tells less
    heads = shortcut_branches(model)
    seen: dict[str, list[Tensor]] = {name: [] for name in heads}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen[name].append(_tensor(out))
        )
        for name in heads
    ]
    entry.before(model)
    output = _run(entry, model)
    for handle in handles:
        handle.remove()
    _check_places(model, seen, output)
    _check_logits(model, seen, output, entry)
    _check_step(model, output)
    share = sum(p.numel() for b in heads.values() for p in b.parameters()) / own
    names = list(heads)
    remove_shortcuts(model)
    assert list(model.state_dict()) == keys, "removal leaves other keys"
    assert [id(p) for p in model.parameters()] == tensors, "removal leaves other parameters"
    return {"heads": names, "share": share, "text": ""}


def _tensor(output: Any) -> Tensor:
    found = output if isinstance(output, Tensor) else output[0]
    assert isinstance(found, Tensor)
    return found


def _run(entry: Entry, model: nn.Module) -> Tensor:
    """Class logits [N, K] with their graph, as the network's script has them."""
    x = entry.input()
    outputs = [model(step) for step in x] if entry.loop else [model(x)]
    entry.after(model)
    logits = [entry.logits(y) if entry.logits is not None else _tensor(y) for y in outputs]
    each = [y if y.ndim == 2 else y.mean(0) for y in logits]
    mean = torch.stack(each).mean(0) if len(each) > 1 else each[0]
    assert mean.ndim == 2, f"the output {tuple(mean.shape)} is not [N, K]"
    return mean


def _check_places(model: nn.Module, seen: Mapping[str, list[Tensor]], output: Tensor) -> None:
    """Heads sit at spiking layers, or blocks with some, that lead to the output."""
    for name, features in seen.items():
        assert features, f"'{name}' did not run"
        module = model.get_submodule(name)
        assert any(_spikes(m) for m in module.modules()), f"nothing spikes in '{name}'"
        grads = torch.autograd.grad(
            output.sum(), features, retain_graph=True, allow_unused=True, materialize_grads=False
        )
        assert any(g is not None for g in grads), f"the output does not depend on '{name}'"


def _spikes(module: nn.Module) -> bool:
    """By the classes' names and surrogate functions, as every spiking layer here has one."""
    surrogate = hasattr(module, "surrogate_function") or hasattr(module, "v_threshold")
    return (surrogate or type(module).__name__ == "FlexSN") and "NonSpiking" not in (
        type(module).__name__
    )


def _check_logits(
    model: nn.Module, seen: Mapping[str, list[Tensor]], output: Tensor, entry: Entry
) -> None:
    """Logits are those of the features on the axes that the network's source has."""
    told = shortcut_logits(model)
    for name, branch in shortcut_branches(model).items():
        calls = [_arranged(feature, entry) for feature in seen[name]]
        x = torch.stack([feature for feature, _ in calls]).mean(0)
        assert x.shape[0] == output.shape[0], f"'{name}': batch of {x.shape[0]}"
        assert x.shape[1] == branch.channels, f"'{name}': {branch.channels} channels for {x.shape}"
        mine = branch.head(x)
        assert mine.shape == output.shape, f"'{name}': logits {tuple(mine.shape)}"
        close = torch.allclose(told[name], mine, atol=1e-4, rtol=1e-4)
        assert close, f"'{name}': other logits than by hand"


def _arranged(feature: Tensor, entry: Entry) -> tuple[Tensor, str]:
    """``[N, C, ...]``, averaged over time."""
    axes = entry.axes if isinstance(entry.axes, str) else entry.axes[feature.ndim]
    time = axes.find("T")
    x = feature.mean(time) if time >= 0 else feature
    left = axes.replace("T", "")
    x = x.movedim((left.index("N"), left.index("C")), (0, 1))
    return x, axes


def _check_step(model: nn.Module, output: Tensor) -> None:
    """One training step: all heads get gradients, and hand some to the network by themselves."""
    heads = shortcut_branches(model)
    own_head = {id(p) for branch in heads.values() for p in branch.parameters()}
    own = [p for p in model.parameters() if id(p) not in own_head and p.requires_grad]
    for name, logits in shortcut_logits(model).items():
        # A weighted sum, as the classes of a plain one may cancel out behind a norm.
        weighed = (logits * torch.linspace(0.5, 1.5, logits.numel()).reshape(logits.shape)).sum()
        grads = torch.autograd.grad(weighed, own, retain_graph=True, allow_unused=True)
        assert any(g is not None and g.any() for g in grads), f"'{name}' trains nothing below it"
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(1.0))
    target = torch.arange(len(output)) % output.shape[1]
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    criterion(output, target).backward()
    for name, branch in heads.items():
        came = [p.grad for p in branch.parameters()]
        assert all(g is not None and g.isfinite().all() for g in came), f"no gradient at '{name}'"
        assert any(g is not None and g.any() for g in came), f"gradient of 0 at '{name}'"
    optimizer.step()


def main() -> None:
    """Check the network of one name and print the result as JSON."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    entry = next(entry for entry in entries() if entry.name == sys.argv[1])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ShortcutWarning)
        result = check(entry)
    ours = [str(w.message) for w in said if isinstance(w.message, ShortcutWarning)]
    print(json.dumps({**result, "warnings": ours}))


if __name__ == "__main__":
    main()
