"""Put shortcut heads into a model and take them out again."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from sj_shortcut.neurons import forget_reset_cache, has_memory, is_spiking_neuron, set_backend
from sj_shortcut.places import (
    At,
    LayoutArgument,
    Look,
    ShortcutPoint,
    choose_points,
    list_points,
)
from sj_shortcut.price import remove_price
from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.shortcuts.checks import (
    check_apart,
    check_factory,
    check_outputs_differ,
    check_reads,
    check_wrappable,
    settle_num_classes,
)
from sj_shortcut.shortcuts.currents import last_neurons
from sj_shortcut.shortcuts.first_batch import kind_of_input, settle
from sj_shortcut.shortcuts.forwards import Forwards
from sj_shortcut.shortcuts.head import HeadFactory, ShortcutHead, default_grid
from sj_shortcut.shortcuts.hooks import (
    CHILD,
    after_model,
    after_point,
    before_model,
    has_shortcuts,
    is_ours,
)
from sj_shortcut.shortcuts.likeness import Likeness
from sj_shortcut.torch_model import is_checkpointed, untouched_rng

__all__ = ["remove_shortcuts", "wrap_with_shortcuts"]


def wrap_with_shortcuts(
    model: nn.Module,
    at: At = "auto",
    *,
    num_classes: int | None = None,
    head: HeadFactory | None = None,
    grid: int | None = None,
    reads: str = "spikes",
    example_input: Any = None,
    layout: LayoutArgument = None,
    backend: str | None = None,
    neuron_types: tuple[type, ...] = (),
    verbose: bool = False,
) -> nn.Module:
    """Give a spiking model shortcut heads that run while it trains.

    The model stays the same object, with the same class, attributes, indexing and outputs; only
    heads are added. On any error it is left as it was. Wrap before ``torch.compile`` and before
    ``DistributedDataParallel``, and build the optimizer after wrapping.

    Where heads sit is looked up in a forward pass that leaves no trace: on ``example_input``, or
    else on a made-up batch that the model takes. The first training batch is looked at once more
    (a few passes), to see on which axes time, batch and channels really lie.

    Args:
        model: Any spiking model, in step mode 'm' or 's', with time on any axis, its loop over
            time outside or inside ``forward``.
        at: Where heads sit. ``"auto"``: the last spiking layer or block of each stage of width or
            resolution but the classifier's, and evenly between these as many more as put one at
            every third spiking layer or block at least; ``"stages"``: the ends of stages alone;
            ``"all"``: every one on the way to the classifier;
            an int: that many, evenly spaced in depth; a dotted name or pattern, or several (``*``
            stays within one level, ``**`` crosses levels); or a predicate
            ``(name, module) -> bool`` over the points that :func:`shortcut_points` lists.
        num_classes: Number of classes K. Only needed where neither a pass nor the last layers tell.
        head: Makes a head: ``(channels, num_classes) -> nn.Module`` from features ``[N, C, ...]``
            to logits ``[N, K]``. Default: :class:`ShortcutHead`. See :class:`ShortcutBranch` for
            heads that see time.
        grid: Default heads average over each of grid x grid parts of the map; 1 for all of it, as
            in the paper. By default the finest of 4, 2 and 1 with which all heads together add at
            most 10 % to the model's parameters, else 1; where features have no space 1 always.
        reads: What heads see of their points: the ``"spikes"`` that it gives, or the ``"currents"``
            that go into its last spiking layer, whose name the head then goes by. A head of
            currents asks for no spikes, and its gradient passes one surrogate less.
        example_input: A batch as the model takes it (a tuple for several arguments), from which
            channels, classes, order and axes are taken as they are.
        layout: The axes of the features, where they cannot be seen: ``"TNC..."``, ``"NTC..."``,
            ``"NC..."``, ``"TNLC"`` for tokens before features, ``"(TN)C..."`` where time is folded
            into the batch (``"(4N)C..."`` says how many steps); or such texts by name or pattern
            of points.
        backend: Also set the neurons' backend, see :func:`set_backend`.
        neuron_types: Your own spiking neuron classes, if they do not derive from SpikingJelly's.
        verbose: Whether to print where the heads are and how many parameters they add.

    Returns:
        The same model.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``at`` chooses nothing or something unusable, if channels or classes are
            unknown, if the output is none of class logits, if ``grid`` is given together with
            ``head``, if ``reads`` is neither, or if the model is wrapped already.

    Example:
        >>> from torch import nn
        >>> from spikingjelly.activation_based import functional, layer, neuron
        >>> model = nn.Sequential(
        ...     layer.Conv2d(1, 8, 3, padding=1), layer.BatchNorm2d(8), neuron.LIFNode(),
        ...     layer.Conv2d(8, 16, 3, stride=2, padding=1), layer.BatchNorm2d(16),
        ...     neuron.LIFNode(), layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(16, 10),
        ... )
        >>> functional.set_step_mode(model, "m")
        >>> wrap_with_shortcuts(model, verbose=True) is model
        shortcut heads: 1, at '2', of 90 parameters together (6.1 % of the model's 1,466)
        True
    """
    check_wrappable(model)
    check_factory(head, grid)
    check_reads(reads)
    points, look = list_points(model, example_input, neuron_types, layout, num_classes)
    if points.refusal:
        raise ValueError(points.refusal)
    chosen = choose_points(points, model, at)
    if reads == "currents":
        chosen = last_neurons(chosen, points, model, neuron_types)
    check_outputs_differ(model, (point.name for point in chosen))
    classes = settle_num_classes(num_classes, points.num_classes)
    forwards = Forwards(
        layout=layout,
        neuron_types=neuron_types,
        num_classes=None if num_classes is not None else classes,
        told_classes=num_classes,
        reads=reads,
        resets=any(has_memory(module) for module in model.modules()),
    )
    likeness = Likeness(model, neuron_types)
    told = grid is not None
    if grid is None:
        grid = default_grid(model, chosen, classes)
    with torch.inference_mode(False), untouched_rng():  # parameters of inference never train
        taps = [
            _Tap(
                model, point, head or _default_head(point, grid, told), classes, forwards, likeness
            )
            for point in chosen
        ]
    check_apart(model, {tap.point.name: tap.branch.head for tap in taps})
    try:
        for tap in taps:
            tap.attach()
        _know(forwards, taps, look, example_input)
        model.register_forward_pre_hook(partial(before_model, forwards=forwards), with_kwargs=True)
        model.register_forward_hook(partial(after_model, forwards=forwards))
        forget_reset_cache(model)
        if backend is not None:
            set_backend(model, backend)
        if verbose:
            print(_announcement(model, taps))
        return model
    except BaseException:
        _detach_all(model)
        raise


def remove_shortcuts(model: nn.Module) -> nn.Module:
    """Take the heads out: what went into :func:`wrap_with_shortcuts` comes back, trained.

    Args:
        model: The wrapped model.

    Returns:
        The same model, without heads and hooks, those of a :class:`SpikePrice` included.

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
        remove_price(model)
    except BaseException:  # an interrupt: half a removal is of no use
        _detach_all(model)
        remove_price(model)
        raise
    return model


def _default_head(point: ShortcutPoint, grid: int, told: bool) -> HeadFactory:
    # Of layers that were not seen running, what the user says of the map counts.
    has_map = point.spatial or (told and point.shape is None)
    return partial(ShortcutHead, grid=grid if has_map else 1)


class _Tap:
    """One branch ready to be attached."""

    def __init__(
        self,
        root: nn.Module,
        point: ShortcutPoint,
        factory: HeadFactory,
        num_classes: int,
        forwards: Forwards,
        likeness: Likeness,
    ) -> None:
        assert point.channels is not None  # a usable point has channels
        self.point = point
        self.forwards = forwards
        self.module = root.get_submodule(point.name)
        self.home_path = _home(self.module, forwards.neuron_types)
        self.checkpointed = is_checkpointed(root, f"{point.name}.{self.home_path}".strip("."))
        made = factory(point.channels, num_classes)
        if not isinstance(made, nn.Module):
            raise TypeError(
                f"head(channels, num_classes) must return a torch.nn.Module, got "
                f"{type(made).__name__} for '{point.name}'."
            )
        self.branch = ShortcutBranch(point.name, made, point.channels, num_classes, forwards)
        likeness.apply(self.branch, point.name)

    def attach(self) -> None:
        home = self.module.get_submodule(self.home_path)
        key = CHILD
        while isinstance(home._modules.get(key), ShortcutBranch):
            key += "_"  # a block and its last neuron may share a home
        if hasattr(home, key):
            raise ValueError(
                f"'{self.point.name}' already has an attribute '{key}', the name shortcut heads go "
                "by: rename yours, or choose another point with at=."
            )
        name = self.point.name
        home.add_module(key, self.branch)
        parts = self.home_path.split(".") if self.home_path else []
        self.forwards.names.append(name)
        self.forwards.homes[name] = (*parts, key)
        self.forwards.channels[name] = self.branch.channels
        if not self.checkpointed:  # or else memopt has counted memories already
            self.branch.keep_hooks_around()
        self.module.register_forward_hook(partial(after_point, name=name, forwards=self.forwards))


def _home(module: nn.Module, neuron_types: tuple[type, ...]) -> str:
    """Relative path of the leaf in which the branch of a tapped module lives.

    A Sequential, and many a block, runs all its children, and a branch among them with them. So it
    lives in the last spiking layer inside, or else in the last leaf.
    """
    if is_spiking_neuron(module, neuron_types):
        return ""
    inside = list(module.named_modules())
    neurons = [name for name, inner in inside if name and is_spiking_neuron(inner, neuron_types)]
    leaves = [name for name, inner in inside if name and not inner._modules]
    return str((neurons or leaves or [""])[-1])


def _know(forwards: Forwards, taps: list[_Tap], look: Look | None, example_input: Any) -> None:
    """Tell the hooks what was seen when wrapping; of an example it holds, of made-up data not."""
    if look is None:
        return
    forwards.layouts = {tap.point.name: tap.point.layout for tap in taps}
    forwards.ending = look.ending
    for tap in taps:  # now, as code compiled before the first call would be compiled anew
        if tap.point.layout is not None:
            tap.branch.follow(tap.point.layout.has_time)
    if example_input is not None:
        settle(look, forwards)
        args = example_input if isinstance(example_input, tuple) else (example_input,)
        if all(layout is not None and layout.sure for layout in forwards.layouts.values()):
            forwards.looked_at = kind_of_input(args, {}, forwards.step_mode)


def _announcement(model: nn.Module, taps: list[_Tap]) -> str:
    heads = sum(p.numel() for tap in taps for p in tap.branch.parameters())
    own = sum(p.numel() for p in model.parameters()) - heads
    names = ", ".join(f"'{tap.point.name}'" for tap in taps)
    share = f"{100 * heads / own:.1f} %" if own else "all"
    return (
        f"shortcut heads: {len(taps)}, at {names}, of {heads:,} parameters together ({share} of "
        f"the model's {own:,})"
    )


def _detach_all(model: nn.Module) -> None:
    for module in list(model.modules()):
        tables = (
            (module._forward_hooks, module._forward_hooks_with_kwargs),
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        )
        for hooks, with_kwargs in tables:
            for key, hook in list(hooks.items()):
                if any(is_ours(hook, ours) for ours in (after_point, before_model, after_model)):
                    with_kwargs.pop(key, None)  # first, for an interrupt in between
                    del hooks[key]
        for name, child in list(module._modules.items()):
            # Whatever wrapped a branch meanwhile goes with it.
            ours = child is not None and any(isinstance(m, ShortcutBranch) for m in child.modules())
            if name.startswith(CHILD) and ours:
                del module._modules[name]
    forget_reset_cache(model)
