"""Put shortcut heads into a model and take them out again: the only file that touches hooks.

Each tapped module gets one child, its branch, and one forward hook that feeds it. The root gets a
hook before its forward, which lets the branches begin anew, and one after it, which makes the
model's output depend on their logits, so that DistributedDataParallel sees every parameter used.
All hooks are module-level functions: copies and pickles of the model carry them along.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any, TypeGuard, cast

import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn
from torch.utils import _pytree

from sj_shortcut.neurons.backend import set_backend
from sj_shortcut.neurons.memory import forget_reset_cache
from sj_shortcut.places.at import At, ShortcutPoint, choose_points, shortcut_points
from sj_shortcut.places.read_modules import find_clock, find_loop, last_child, step_mode_of
from sj_shortcut.shortcuts.branch import HeadFactory, ShortcutBranch, ShortcutHead
from sj_shortcut.torch_model.preserve import untouched_rng
from sj_shortcut.torch_model.sharding import is_sharded, lost_its_weights

CHILD = "shortcut_head"


def wrap_with_shortcuts(
    model: nn.Module,
    at: At = "auto",
    *,
    num_classes: int | None = None,
    head: HeadFactory | None = None,
    example_input: Any = None,
    backend: str | None = None,
    neuron_types: tuple[type, ...] = (),
) -> nn.Module:
    """Give a SpikingJelly model shortcut heads that run while it trains.

    The model stays the same object, with the same class, attributes, indexing and outputs; only
    heads are added. On any error it is left as it was. Wrap before ``torch.compile`` and before
    ``DistributedDataParallel``, and build the optimizer after wrapping.

    Args:
        model: Any SpikingJelly model, in step mode 'm' or 's'.
        at: Where heads sit. ``"auto"``: the last spiking layer or block of each stage of width or
            resolution but the classifier's, and evenly between these as many more as put one at
            every third spiking layer or block at least; ``"stages"``: the ends of stages alone;
            ``"all"``: every one on the way to the classifier;
            an int: that many, evenly spaced in depth; a dotted name or pattern, or several (``*``
            stays within one level, ``**`` crosses levels); or a predicate
            ``(name, module) -> bool`` over the points that :func:`shortcut_points` lists.
        num_classes: Number of classes K. Only needed where the last layers do not tell.
        head: Makes a head: ``(channels, num_classes) -> nn.Module`` from features ``[N, C, ...]``
            to logits ``[N, K]``. Default: :class:`ShortcutHead`, with ``grid=1`` where the features
            have no space. See :class:`ShortcutBranch` for heads that hold neurons.
        example_input: A batch for one forward pass without gradients, from which channels, classes
            and order are taken as they are, instead of being read off the modules.
        backend: Also set the neurons' backend, see :func:`set_backend`.
        neuron_types: Your own spiking neuron classes, if they do not derive from SpikingJelly's.

    Returns:
        The same model.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``at`` chooses nothing or something unusable, if channels or classes are
            unknown, or if the model is wrapped already.

    Example:
        >>> from torch import nn
        >>> from spikingjelly.activation_based import functional, layer, neuron
        >>> model = nn.Sequential(
        ...     layer.Conv2d(1, 8, 3, padding=1), layer.BatchNorm2d(8), neuron.LIFNode(),
        ...     layer.Conv2d(8, 16, 3, stride=2, padding=1), layer.BatchNorm2d(16),
        ...     neuron.LIFNode(), layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(16, 10),
        ... )
        >>> functional.set_step_mode(model, "m")
        >>> wrap_with_shortcuts(model) is model
        True
        >>> from sj_shortcut import shortcut_branches
        >>> list(shortcut_branches(model))
        ['2']
    """
    _check_wrappable(model)
    points = shortcut_points(model, example_input, neuron_types=neuron_types)
    chosen = choose_points(points, model, at)
    classes = _settle_num_classes(num_classes, points.num_classes)
    _check_factory(head)
    with untouched_rng():
        taps = [
            _Tap(model, point, head or _default_head(point), classes, neuron_types)
            for point in chosen
        ]
    _check_apart(model, taps)
    expected = None if num_classes is not None else classes
    try:
        for tap in taps:
            tap.attach()
        paths = tuple(tap.branch_path for tap in taps)
        model.register_forward_pre_hook(partial(_begin, branches=paths))
        model.register_forward_hook(partial(_join, branches=paths, num_classes=expected))
        forget_reset_cache(model)
        if backend is not None:
            set_backend(model, backend)
        return model
    except BaseException:
        _detach_all(model)
        raise


def remove_shortcuts(model: nn.Module) -> nn.Module:
    """Take the heads out: what went into :func:`wrap_with_shortcuts` comes back, trained.

    Args:
        model: The wrapped model.

    Returns:
        The same model, without heads and hooks.

    Raises:
        TypeError: If ``model`` is not a module.
        ValueError: If the model has no shortcuts.

    Example:
        >>> from torch import nn
        >>> from spikingjelly.activation_based import layer, neuron
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4),
        ...                       neuron.LIFNode(), layer.Linear(4, 2))
        >>> before = list(model.state_dict())
        >>> model = remove_shortcuts(wrap_with_shortcuts(model))
        >>> list(model.state_dict()) == before
        True
    """
    if not has_shortcuts(model):
        inner = [name for name, module in model.named_modules() if has_shortcuts(module)]
        hint = f" Its submodule '{inner[0]}' has: pass that." if inner else ""
        if not inner and any(isinstance(module, ShortcutBranch) for module in model.modules()):
            hint = " It is a part of a wrapped model: pass the whole."
        raise ValueError(
            f"{type(model).__name__} has no shortcuts to remove: they were removed already, or "
            f"wrap_with_shortcuts was not called on it.{hint}"
        )
    try:
        _detach_all(model)
    except BaseException:  # an interrupt: half a removal is of no use
        _detach_all(model)
        raise
    return model


def has_shortcuts(model: nn.Module) -> bool:
    """Whether ``model`` itself went through :func:`wrap_with_shortcuts` and still has its heads."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    return any(_is_ours(hook, _join) for hook in model._forward_hooks.values())


def branches_of(root: nn.Module) -> list[ShortcutBranch]:
    """The branches of a model that :func:`has_shortcuts`, in order of depth."""
    join = next(hook for hook in root._forward_hooks.values() if _is_ours(hook, _join))
    return [_branch(root, path) for path in join.keywords["branches"]]


NO_DATA_PARALLEL = (
    "nn.DataParallel copies the model at every step and the heads' logits are lost with the "
    "copies: use torch.nn.parallel.DistributedDataParallel."
)


def _default_head(point: ShortcutPoint) -> HeadFactory:
    return ShortcutHead if point.spatial else partial(ShortcutHead, grid=1)


class _Tap:
    """One branch ready to be attached."""

    def __init__(
        self,
        root: nn.Module,
        point: ShortcutPoint,
        factory: HeadFactory,
        num_classes: int,
        neuron_types: tuple[type, ...],
    ) -> None:
        assert point.channels is not None  # a usable point has channels
        self.name = point.name
        self.module = root.get_submodule(point.name)
        # A Sequential runs all its children, so its branch lives with its last one.
        self.home_path = last_child(self.module)
        self.home = self.module.get_submodule(self.home_path)
        self.branch_path = ".".join(filter(None, (point.name, self.home_path, CHILD)))
        self.clock_path = find_clock(self.module, neuron_types)
        made = factory(point.channels, num_classes)
        if not isinstance(made, nn.Module):
            raise TypeError(
                f"head(channels, num_classes) must return a torch.nn.Module, got "
                f"{type(made).__name__} for '{point.name}'."
            )
        loop = find_loop(root, point.name)
        self.branch = ShortcutBranch(point.name, made, point.channels, num_classes, loop)
        like = _nearest_tensor(root, self.name)
        self.branch.to(device=like.device, dtype=like.dtype).train(self.module.training)

    def attach(self) -> None:
        if hasattr(self.home, CHILD):
            raise ValueError(
                f"'{self.name}' already has an attribute '{CHILD}', the name shortcut heads go by: "
                "rename yours, or choose another point with at=."
            )
        self.home.add_module(CHILD, self.branch)
        self.module.register_forward_hook(
            partial(_feed, home=self.home_path, clock=self.clock_path)
        )


def _feed(module: nn.Module, args: Any, output: Any, *, home: str, clock: str | None) -> None:
    """After a tapped module ran: hand its output to the branch."""
    branch = _branch(module, f"{home}.{CHILD}".lstrip("."))
    if getattr(module, "_is_replica", False):
        raise RuntimeError(NO_DATA_PARALLEL)
    if not branch.active:
        branch.blocked = branch.training
        return
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the output of '{branch.name}' is a {type(output).__name__}; a shortcut head needs "
            "one tensor: choose another point with at=."
        )
    branch.follow("m" if clock is None else step_mode_of(module.get_submodule(clock)))
    logits = branch(output)
    if _in_backward():
        return  # a checkpoint runs its part again: the same operations, but nothing to keep
    if branch.total is not None and not branch.joined and branch.loop is None:
        raise RuntimeError(
            f"'{branch.name}' was called twice in one forward pass: a shared module has no one "
            "depth. Choose another point with at=. Where SpikingJelly's memopt calls it once a "
            "chunk, use memopt first and wrap_with_shortcuts after it."
        )
    branch.keep(logits)
    if not torch.compiler.is_compiling():
        branch.tapped = (output, output._version)


def _begin(model: nn.Module, args: Any, *, branches: tuple[str, ...]) -> None:
    """Before the model runs: drop the logits that the coming ones replace."""
    if _in_backward():
        return
    unused = None
    for path in branches:
        branch = _branch(model, path)
        point = model.get_submodule(branch.name)
        if branch.training != point.training:  # it may live in a norm that was put in eval mode
            branch.train(point.training)
        if not branch.active or branch.total is None:
            continue
        gathering = branch.step_mode == "s" and not _loop_runs(model, branch)
        if gathering and not branch.joined:
            branch.roll_back()  # the time step before failed midway
        if gathering and not branch.used:
            continue
        if branch.joined and not branch.used and not branch.always_on:
            unused = unused or branch.name
        branch.reset()
    if unused is not None:
        _warn_of_two_forwards(unused)


def _loop_runs(model: nn.Module, branch: ShortcutBranch) -> bool:
    """Whether one call of the model runs all time steps of a point in step mode 's'."""
    return branch.loop is not None and step_mode_of(model.get_submodule(branch.loop)) == "m"


def _join(
    model: nn.Module,
    args: Any,
    output: Any,
    *,
    branches: tuple[str, ...],
    num_classes: int | None,
) -> Any:
    """After the model ran: check what was tapped and hang the logits on the output."""
    if _in_backward():
        return None
    logits = []
    for path in branches:
        branch = _branch(model, path)
        if branch.total is None or branch.joined:
            continue
        _check_not_overwritten(branch)
        branch.joined, branch.before = True, (None, None)
        if branch.total.requires_grad:
            _check_not_resharded(model, path, branch)
            logits.append(branch.total)
    return _hang_on(output, logits, num_classes) if logits else None


def _hang_on(output: Any, logits: list[Tensor], num_classes: int | None) -> Any:
    if isinstance(output, Tensor):
        if num_classes is not None and (output.ndim == 0 or output.shape[-1] != num_classes):
            raise ValueError(
                f"the model gave {tuple(output.shape)} but its last layers looked like "
                f"{num_classes} classes: pass num_classes= to wrap_with_shortcuts."
            )
        return _Join.apply(output, *logits)
    leaves, tree = _pytree.tree_flatten(output)
    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    if not tensors:
        raise TypeError(
            f"the model's output is a {type(output).__name__} without a tensor: shortcut heads "
            "need one to hang on. Return tensors, in a tuple, list or dict if there are several."
        )
    first = next((i for i in tensors if leaves[i].requires_grad), tensors[0])
    leaves[first] = _Join.apply(leaves[first], *logits)
    return _pytree.tree_unflatten(leaves, tree)


class _Join(torch.autograd.Function):
    """Identity on the output that makes it depend on the logits, which get no gradient from it.

    No gradient rather than zeros: it costs nothing, and zeros would meet a head's NaN. A copy of
    the output rather than a view of it, so that code such as ``output /= T`` goes on working.
    """

    @staticmethod
    def forward(output: Tensor, *logits: Tensor) -> Tensor:
        return output.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.logits = len(inputs) - 1

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return (grads[0], *[None] * ctx.logits)


def _branch(module: nn.Module, path: str) -> ShortcutBranch:
    return cast(ShortcutBranch, module.get_submodule(path))


def _is_ours(hook: Any, function: Callable[..., Any]) -> TypeGuard[partial[Any]]:
    return isinstance(hook, partial) and hook.func is function


def _in_backward() -> bool:
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1


def _detach_all(model: nn.Module) -> None:
    for module in list(model.modules()):
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if any(_is_ours(hook, ours) for ours in (_feed, _begin, _join)):
                    del hooks[key]
        if isinstance(module._modules.get(CHILD), ShortcutBranch):
            del module._modules[CHILD]
    forget_reset_cache(model)


def _check_not_overwritten(branch: ShortcutBranch) -> None:
    tapped, branch.tapped = branch.tapped, None
    if tapped is not None and tapped[0]._version != tapped[1]:
        raise RuntimeError(
            f"the output of '{branch.name}' was overwritten in place by a module after it, so its "
            "shortcut head saw other values than the network: make that module work out of place "
            "(inplace=False), or tap it instead."
        )


def _check_not_resharded(model: nn.Module, path: str, branch: ShortcutBranch) -> None:
    if not torch.compiler.is_compiling() and lost_its_weights(model, path):
        raise RuntimeError(
            f"the weights of the shortcut head at '{branch.name}' are sharded together with a "
            "module around it, which gave them back after its forward pass, before the head's "
            "backward pass. Shard every head by itself first: for branch in "
            "shortcut_branches(model).values(): fully_shard(branch)."
        )


def _warn_of_two_forwards(name: str) -> None:
    warnings.warn(
        f"a second training forward ran before a ShortcutLoss used the logits of the first: those "
        f"of '{name}' and the other shortcut heads are replaced. Take the loss after each forward, "
        "or call functional.reset_net(model) to say that the first is not needed.",
        UserWarning,
        stacklevel=4,
    )


def _check_wrappable(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    kind = type(model).__name__
    if isinstance(model, nn.DataParallel):
        raise TypeError(NO_DATA_PARALLEL)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise TypeError(
            f"model is inside {kind} already: call wrap_with_shortcuts on the model itself, before "
            f"making it {kind}."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"{kind} is compiled by torch.jit and takes no heads: wrap the original.")
    for name, module in model.named_modules():
        # torch.compile may have traced the module without the hooks that are to come.
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            where = f"its submodule '{name}'" if name else "it"
            raise TypeError(
                f"{kind} cannot be wrapped: {where} is compiled already. Call wrap_with_shortcuts "
                "first, then compile."
            )
        if is_sharded(module):
            where = f"its submodule '{name}'" if name else "it"
            raise TypeError(
                f"{kind} cannot be wrapped: {where} is sharded by FSDP already, and the heads "
                "would not be. Call wrap_with_shortcuts first, then shard."
            )
        if isinstance(module, ShortcutBranch) or has_shortcuts(module):
            where = f"its submodule '{name}'" if name and has_shortcuts(module) else "it"
            raise ValueError(
                f"{kind} cannot be wrapped: {where} has shortcuts already. To change them, call "
                "remove_shortcuts first."
            )


def _check_factory(head: Any) -> None:
    if head is None or (callable(head) and not isinstance(head, nn.Module)):
        return
    raise TypeError(
        "head must make a new module at each call, head(channels, num_classes) -> nn.Module, such "
        f"as the class ShortcutHead; got an instance of {type(head).__name__}."
    )


def _settle_num_classes(given: int | None, inferred: int | None) -> int:
    if given is not None:
        if isinstance(given, bool) or not isinstance(given, Integral):
            raise TypeError(f"num_classes must be an int, got {type(given).__name__}.")
        if given < 1:
            raise ValueError(f"num_classes must be at least 1, got {given}.")
        return int(given)
    if inferred is None:
        raise ValueError(
            "the model's last layers do not tell the number of classes: pass num_classes=, or "
            "example_input= to have it read off a forward pass."
        )
    return inferred


def _check_apart(model: nn.Module, taps: list[_Tap]) -> None:
    """Each head needs an output of its own and parameters of its own."""
    outputs: dict[int, str] = {}
    heads = {id(module): "the model" for module in model.modules()}
    for tap in taps:
        other = outputs.setdefault(id(tap.home), tap.name)
        if other != tap.name:
            raise ValueError(
                f"'{other}' and '{tap.name}' are the same output: name only one of them in at=."
            )
        for module in tap.branch.head.modules():
            # SpikingJelly's neurons share one default surrogate function, and may.
            if module is not tap.branch.head and not _has_state(module):
                continue
            owner = heads.setdefault(id(module), f"the head at '{tap.name}'")
            if owner != f"the head at '{tap.name}'":
                raise ValueError(
                    f"head(channels, num_classes) returned for '{tap.name}' a "
                    f"{type(module).__name__} that belongs to {owner} already: make a new one at "
                    "each call."
                )


def _has_state(module: nn.Module) -> bool:
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return bool(own) or isinstance(module, base.MemoryModule)


def _nearest_tensor(root: nn.Module, name: str) -> Tensor:
    """The last floating tensor defined up to the end of a module: its head is made like it."""
    # Duplicates too: all neurons share one default surrogate function.
    named = list(root.named_modules(remove_duplicate=False))
    order: list[nn.Module] = [module for _, module in named]
    last = max(i for i, (path, _) in enumerate(named) if f"{path}.".startswith(f"{name}."))
    for module in (*order[last::-1], *order[last:]):
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                return tensor
    return torch.empty(0)
