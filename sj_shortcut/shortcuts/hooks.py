"""The hooks that run the heads: before the model, after each tapped module, after the model.

All are module-level functions that share one :class:`Forwards`: copies and pickles of the model
carry them along. The hook before the model opens a record, the one after a tapped module adds its
head's logits to it, and the one after the model hangs the record on the output, so that the loss
finds it and DistributedDataParallel sees every parameter used.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, TypeGuard

import torch
from torch import Tensor, nn

from sj_shortcut.places import Layout, layout_for, parse_layout
from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.shortcuts.currents import current_into
from sj_shortcut.shortcuts.eval_mode import watch_for_updates_in_eval_mode
from sj_shortcut.shortcuts.first_batch import look_if_needed
from sj_shortcut.shortcuts.forwards import Forwards, Record
from sj_shortcut.shortcuts.gates import above, below
from sj_shortcut.shortcuts.hand_on import averages, averages_and_features
from sj_shortcut.shortcuts.join import hang_on
from sj_shortcut.shortcuts.oversight import watch_for_unused_heads
from sj_shortcut.shortcuts.telling import tell
from sj_shortcut.shortcuts.together import compute_waiting, head_that_waits, may_wait_on, wait
from sj_shortcut.torch_model import (
    NO_BACKWARD,
    NO_DATA_PARALLEL,
    backward_task,
    first_tensor,
    in_backward,
    is_captured,
    is_distributed,
    is_sharded,
    lost_its_weights,
    require_module,
    tensors_in,
)

__all__ = [
    "CHILD",
    "after_model",
    "after_point",
    "before_model",
    "branch_in",
    "forwards_of",
    "has_shortcuts",
    "head_is_gone",
    "is_ours",
]

CHILD = "shortcut_head"


def before_model(model: nn.Module, args: Any, kwargs: Any, *, forwards: Forwards) -> None:
    """Before the model runs: open a record, and look at the axes where they are not known yet."""
    graded = torch.is_grad_enabled()
    if in_backward():  # a checkpoint around the model runs it again
        forwards.again = Record(forwards, graded)
        return
    forwards.again = None
    if torch.compiler.is_compiling():
        from sj_shortcut.shortcuts.compiled import this_trace

        forwards.trained = model.training
        forwards.current = Record(forwards, graded)
        forwards.current.trace = this_trace()
        return
    if forwards.outrun or not forwards.count:
        _come_last(model, forwards)
    watch_for_updates_in_eval_mode(model, forwards)
    if graded and model.training:
        watch_for_unused_heads(model, forwards)
        forwards.trainings += 1
        forwards.fed = next((_whole(x) for x in args if isinstance(x, Tensor)), None)
    if forwards.always_on or (graded and model.training):
        records = forwards.records
        look_if_needed(model, args, kwargs, forwards)
        forwards.records = records  # which a look in the middle of a sequence resets
    if forwards.records and not forwards.records[-1].single:
        forwards.records = []  # and with it its graph, before the next one is built
    sharded = is_distributed() and any(map(is_sharded, model.modules()))
    forwards.together = not (sharded or torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
    forwards.count += 1
    forwards.attacked = (
        graded
        and not model.training
        and any(tensor.requires_grad for tensor in tensors_in((args, kwargs)))
    )
    forwards.evaluations += forwards.trained and not model.training
    forwards.trained = model.training
    forwards.current = forwards.last = Record(forwards, graded)
    forwards.current.number = forwards.count


def _come_last(model: nn.Module, forwards: Forwards) -> None:
    """Let heads read what the network reads, where hooks put on later may change it."""
    forwards.outrun = False
    for module in model.modules():
        hooks = module._forward_hooks
        for key in [key for key, hook in hooks.items() if is_ours(hook, after_point)]:
            hooks[key] = hooks.pop(key)


def after_point(
    module: nn.Module, args: Any, output: Any, *, name: str, forwards: Forwards
) -> Tensor | None:
    """After a tapped module ran: give its output to the head, or average it for the head."""
    if isinstance(output, torch.fx.Proxy):
        return None
    if getattr(module, "_is_replica", False):
        raise RuntimeError(NO_DATA_PARALLEL)
    compiling = torch.compiler.is_compiling()
    again = not compiling and backward_task() != NO_BACKWARD
    # A checkpoint runs its part again: the same operations, but nothing to keep.
    record = forwards.again if again else forwards.current
    if record is None and not again:
        return None  # the module was called by itself, not by the model
    graded = torch.is_grad_enabled()
    trained = forwards.trained
    if not (forwards.always_on or (trained and module.training and graded)):
        if record is not None and record.graded and trained:
            (record.asleep if not module.training else record.blocked).append(name)
        return None
    if forwards.reads == "currents":
        feature = current_into(args, output, name, forwards)
    else:
        feature = _first_of(output, name)
    run, branch = branch_in(module, name, forwards)
    if branch.training != module.training:  # it may live in a part that was put in eval mode
        run.train(module.training)
    layout = forwards.layouts.get(name)
    if layout is None or layout.ndim != feature.ndim:
        layout = _layout_without_a_look(name, feature, layout, forwards, record)
        if layout is None:
            return None
    last = compiling or is_ours(next(reversed(module._forward_hooks.values())), after_point)
    x, timed = layout.arrange(feature), layout.has_time
    steps = x.shape[0] if timed else 1
    handed: Tensor | None = None
    head = None if compiling else head_that_waits(run, branch, forwards)
    if head is not None:
        branch.check_features(x, timed)
        how = (x, head.grid, timed, forwards.per_step)
        if x is output and last:
            features, handed = averages_and_features(*how)
        else:  # hooks that come after this one, to see gradients for one, see the head's as well
            features = averages(*how)
        if record is not None:
            wait(record, name, head, features, steps, timed)
    else:
        logits = _logits(run, x, timed, forwards)
        if record is not None:
            record.add(name, logits, steps, timed)
    if record is not None and not again and not compiling:
        if not last:
            forwards.outrun = True
        if not feature.requires_grad:
            record.fixed.append(name)
        if not feature.is_inference():  # which counts no versions
            record.tapped.append((name, feature, feature._version))
        _check_backward_hooks(module, name, forwards)
    return handed


def _first_of(output: Any, name: str) -> Tensor:
    feature = first_tensor(output)
    if feature is None:
        raise TypeError(
            f"the output of '{name}' is a {type(output).__name__} without a tensor, and a shortcut "
            "head needs one: choose another point with at=."
        )
    return feature


def _layout_without_a_look(
    name: str, feature: Tensor, seen: Layout | None, forwards: Forwards, record: Record | None
) -> Layout | None:
    """What the user says of the axes, where no look could be had; ``None`` if the model is to tell.

    Raises:
        ValueError: If the axes are not known.
    """
    told = layout_for(forwards.layout, name) if seen is None else None
    if told is not None:
        forwards.layouts[name] = layout = parse_layout(told, feature.ndim)
        return layout
    if seen is None and forwards.failed_look and record is not None:
        record.unseen.append((name, tuple(feature.shape)))  # the model may say what is wrong
        return None
    return _unknown_axes(name, tuple(feature.shape), "" if seen is None else f"seen as {seen}")


def _logits(run: nn.Module, x: Tensor, timed: bool, forwards: Forwards) -> Tensor:
    """What a head gives by itself; where the step is recorded, behind gates that λ can shut."""
    if not (torch.compiler.is_compiling() or is_captured(x)):
        return run(x, with_time=timed, per_step=forwards.per_step)  # type: ignore[no-any-return]
    x, key = below(x)
    return above(run(x, with_time=timed, per_step=forwards.per_step), key)


def after_model(model: nn.Module, args: Any, output: Any, *, forwards: Forwards) -> Any:
    """After the model ran: check what was tapped and hang the record on the output."""
    if in_backward():
        again, forwards.again = forwards.again, None
        if again is not None and not may_wait_on(again):
            compute_waiting(again)
        return None
    record, forwards.current = forwards.current, None
    if record is None:
        return None
    for name, shape in record.unseen[:1]:
        _unknown_axes(name, shape, f"a look at this batch ended in {forwards.failed_look}")
    _check_not_overwritten(record)
    if not may_wait_on(record):
        compute_waiting(record)
    if torch.compiler.is_compiling():
        forwards.keep_compiled(record)
    else:
        forwards.keep(record)
    if not _leaves_all_out(model, record, forwards) and not record.learns():
        return None
    _check_not_resharded(model, record, forwards)
    return hang_on(output, record)


def _leaves_all_out(model: nn.Module, record: Record, forwards: Forwards) -> bool:
    """Whether this forward had no use for any tapped module, as some do where layers are dropped.

    Where heads have never run, or something stands where a module was, as memopt's checkpoints do,
    that keeps them from it, and the loss is to tell.
    """
    kept_from = record.logits or record.blocked or record.asleep
    trains = forwards.trains and not torch.compiler.is_compiling()
    # A look at the batch has seen whether the model leaves parts out by itself.
    may_be = forwards.reached or None in forwards.unclear
    if kept_from or not trains or not may_be:
        return False
    modules = dict(model.named_modules())
    hooks = [getattr(modules.get(name), "_forward_hooks", {}).values() for name in forwards.names]
    return all(any(is_ours(hook, after_point) for hook in some) for some in hooks)


def branch_in(module: nn.Module, name: str, forwards: Forwards) -> tuple[nn.Module, ShortcutBranch]:
    """The branch of a tapped module, and what it is to be run by where something wraps it.

    Raises:
        RuntimeError: If it is gone, as after a part of the tapped module was replaced.
    """
    found: nn.Module | None = module
    for part in forwards.homes[name]:
        found = getattr(found, part, None)  # what wraps a module hands its attributes on
    if isinstance(found, ShortcutBranch):
        return found, found
    if found is not None:
        for inner in found.modules():
            if isinstance(inner, ShortcutBranch):
                return found, inner
    raise RuntimeError(head_is_gone(name))


def head_is_gone(name: str) -> str:
    """What to tell a user whose surgery took a head away."""
    return (
        f"the shortcut head at '{name}' is gone: the module it lived in was replaced after "
        "wrapping. Call remove_shortcuts(model), then wrap_with_shortcuts(model) again, and build "
        "the optimizer and ShortcutLoss anew."
    )


def is_ours(hook: Any, function: Callable[..., Any]) -> TypeGuard[partial[Any]]:
    """Whether a hook is a partial of one of the functions here."""
    return isinstance(hook, partial) and hook.func is function


def has_shortcuts(model: nn.Module) -> bool:
    """Whether ``model`` itself went through ``wrap_with_shortcuts`` and still has its heads."""
    require_module(model)
    return any(is_ours(hook, after_model) for hook in model._forward_hooks.values())


def forwards_of(root: nn.Module) -> Forwards:
    """What the heads of a model that :func:`has_shortcuts` know of its forward passes."""
    hook = next(hook for hook in root._forward_hooks.values() if is_ours(hook, after_model))
    forwards: Forwards = hook.keywords["forwards"]
    return forwards


def _whole(x: Tensor) -> Any:
    """A batch of which the input may be one time step, without keeping it alive."""
    return weakref.ref(x if x._base is None else x._base)


def _unknown_axes(name: str, shape: tuple[int, ...], seen: str) -> NoReturn:
    raise ValueError(
        f"the axes of the output of '{name}' {shape} are not known{seen and f' ({seen})'}: say "
        'which is which with layout=, such as layout="TNC...", in wrap_with_shortcuts.'
    )


def _check_not_overwritten(record: Record) -> None:
    tapped, record.tapped = record.tapped, []
    for name, feature, version in tapped:
        if feature._version != version:
            raise RuntimeError(
                f"the output of '{name}' was overwritten in place by what came after it, so its "
                "shortcut head saw other values than the network: let that work out of place "
                "(inplace=False, h = h + x instead of h += x), or choose another point with at=."
            )


def _check_not_resharded(model: nn.Module, record: Record, forwards: Forwards) -> None:
    if torch.compiler.is_compiling() or not is_distributed():
        return
    for name in record.logits:
        if lost_its_weights(model, ".".join((name, *forwards.homes[name]))):
            raise RuntimeError(
                f"the weights of the shortcut head at '{name}' are sharded together with a module "
                "around it, which gave them back after its forward pass, before the head's "
                "backward pass. Shard every head by itself first: for branch in "
                "shortcut_branches(model).values(): fully_shard(branch)."
            )


def _check_backward_hooks(module: nn.Module, name: str, forwards: Forwards) -> None:
    """PyTorch lets full backward hooks wrap the output after all forward hooks: tell the user."""
    if module._backward_hooks or module._backward_pre_hooks:
        tell(
            forwards,
            "backward hook",
            f"'{name}' has a full backward hook, as SpikingJelly's gradient monitors put on, and a "
            "shortcut head: the hook does not see the part of the gradient that comes from the "
            "head. Measure with sj_shortcut.GradientRecorder or gradient_flow, or by a hook on the "
            "tensor.",
        )
