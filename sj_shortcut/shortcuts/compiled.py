"""Pair an output with its heads' logits inside compiled code, where no graph can be walked yet.

A compiler shows neither the graph of what it traces nor that of what it is given. Where model and
loss are traced together, the records of that trace are there, and whether the output comes from
them, and from no other forward, is looked up in the code that the compiler has written so far. In
all other cases the code is cut in two, and the output paired in between as ever.

Imported while compiling only: it needs PyTorch's compiler, which takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.comptime import ComptimeContext, comptime
from torch._guards import CompileContext

from sj_shortcut.shortcuts.forwards import Forwards, Record, in_time

__all__ = ["heads_of_this_trace", "mark_join", "outside_of_the_graph", "this_trace"]

_KEY = "sj_shortcut_logits"
_before = [False]
_ANOTHER = (
    "in one piece of compiled code, a ShortcutLoss takes the output of the model's last forward in "
    "it, and this one comes from an earlier forward, from several, or from another wrapped model "
    "(or a copy). Take the loss of each output before the next forward; or compile the model "
    "alone, torch.compile(model), and leave the loss as it is."
)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def this_trace() -> str:
    """What tells the code that is being traced from any other; a constant in it."""
    return _trace()


def mark_join(joined: Tensor, record: Record) -> None:
    """Note in the code being compiled that a tensor carries the logits of a forward.

    Args:
        joined: What ``join`` gave.
        record: The record of the forward.
    """
    logits = _with_gradients(record)  # read by the function below, as is ``joined``
    comptime(_mark_join)
    record.shared = record.shared or _other_forward_before()
    record.joined = this_trace()
    del logits


def heads_of_this_trace(output: Tensor, forwards: Forwards) -> dict[str, Tensor] | None:
    """The heads' logits of the forwards in this trace that an output comes from.

    Args:
        output: What the loss is given.
        forwards: What the heads of the model know of its forward passes.

    Returns:
        By name ``[N, K]``, per step ``[T, N, K]``; ``None`` if it does not come from all of them,
        or is of another size, or also comes from a forward that is none of them.
    """
    records = _records_of_this_trace(forwards)
    if not records or not output.requires_grad:
        return None
    logits = [_with_gradients(record) for record in records]
    comptime(_check_origin)
    if records[-1].trace != this_trace():  # it was cut in two
        return None
    found = {}
    for name in forwards.names:
        calls = [pair for r in records for pair in zip(r.logits.get(name, []), r.steps[name])]  # noqa: B905
        if calls:
            found[name] = in_time(calls, forwards.per_step)
    if not all(_fits(values, output) for values in found.values()):
        return None
    for record in records:
        record.used = True
    del logits
    return found


@torch.compiler.disable  # type: ignore[untyped-decorator]
def outside_of_the_graph(function: Callable[..., Any], *args: Any) -> Any:
    """Run a function between two parts of compiled code, on tensors that have their graph.

    Args:
        function: The function.
        args: Its arguments.
    """
    return function(*args)


def _records_of_this_trace(forwards: Forwards) -> list[Record]:
    """The last forward, or its time steps so far."""
    newest = forwards.compiled
    if newest is None or newest.trace != this_trace():
        return []
    records = [newest]
    before = newest.before
    # In this order: traces of calls long ago, once read, would have to be the same at each call.
    while before is not None and before.used == newest.used and before.trace == this_trace():
        records.insert(0, before)
        before = before.before
    return records


def _trace() -> str:
    return str(CompileContext.current_compile_id())


def _with_gradients(record: Record) -> list[Tensor]:
    return [logits for logits in record.all_logits() if logits.requires_grad]


def _fits(values: Tensor, output: Tensor) -> bool:
    steps = values.ndim == 2 or values.shape[0] == 1 or values.shape[0] == output.shape[0]
    return steps and values.ndim <= output.ndim and values.shape[-2:] == output.shape[-2:]


def _mark_join(context: ComptimeContext) -> None:
    node = _node(context.get_local("joined").as_proxy())
    logits = _nodes(context.get_local("logits").as_proxy())
    node.meta[_KEY] = logits
    _before[0] = any(other.meta.get(_KEY, logits) != logits for other in node.graph.nodes)
    # The forwards before it are told by their trace: their records are no longer at hand.
    (Record.several.add if _before[0] else Record.several.discard)(_trace())


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _other_forward_before() -> bool:
    """What the last call of ``_mark_join`` found: a constant in the code that is being traced."""
    return _before[0]


def _check_origin(context: ComptimeContext) -> None:
    """Refuse an output of other forwards than these, or of more; cut the code if it is of none."""
    logits: Any = context.get_local("logits").as_proxy()
    expected = {_nodes(one) for one in logits}
    waiting = [_node(context.get_local("output").as_proxy())]
    passed: set[Any] = set()
    found: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node in passed:
            continue
        passed.add(node)
        if _KEY in node.meta:
            found.add(node.meta[_KEY])
        waiting.extend(node.all_input_nodes)
    if found and found != expected:
        raise RuntimeError(_ANOTHER)
    if not found:
        context.graph_break("the loss of an output of a forward outside of this code")


def _node(proxy: Any) -> Any:
    return proxy.node


def _nodes(proxies: Any) -> tuple[Any, ...]:
    return tuple(map(_node, proxies))
