"""What a user reads after a mistake, word for word, and that the mistake changed nothing."""

import copy
import pickle
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    HandoverSchedule,
    ShortcutHead,
    ShortcutLoss,
    ShortcutSchedule,
    has_shortcuts,
    remove_shortcuts,
    shortcut_branches,
    shortcut_logits,
    shortcut_points,
    wrap_with_shortcuts,
)
from sj_shortcut.neurons import has_cupy_backend
from tests.nets.small import CLASSES, Net, images, labels, stage

# Models, besides Net.


class SharedNeuron(Net):
    """One neuron under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer2[1] = self.layer1[1]


class Unseen(Net):
    """Runs on strong inputs alone, which no made-up batch is: wrapping has to go by its modules."""

    def forward(self, x: Tensor) -> Tensor:
        if x.max() <= 2:
            raise ValueError("stronger inputs, please")
        return super().forward(x)


class CalledTwice(Unseen):
    """One neuron, called at two depths."""

    def forward(self, x: Tensor) -> Tensor:
        if x.max() <= 2:
            raise ValueError("stronger inputs, please")
        spikes = self.layer1[1](self.layer1(x))
        return self.fc(self.layer3(self.layer2(spikes)))


class InContainer(Net):
    """A neuron where time and batch share one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.layer2 = layer.SeqToANNContainer(nn.Linear(16, 12), nn.ReLU(), Square())


class Square(neuron.LIFNode):
    """A neuron that needs no time steps."""

    def single_step_forward(self, x: Tensor) -> Tensor:
        return self.surrogate_function(x)


class UnknownClasses(Unseen):
    """Ends in a layer that may change the number of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.readout = nn.PixelShuffle(1)


class UnknownChannels(Net):
    """A neuron on flattened maps, whose size the modules do not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.layer2 = nn.Sequential(layer.Flatten(), neuron.LIFNode(step_mode="m"))


class HalvedChannels(Unseen):
    """A layer in between that no table of layers knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(layer.Linear(8, 32), nn.GLU(), neuron.LIFNode())
        functional.set_step_mode(self, "m")


class TwiceTheClasses(Unseen):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).repeat(1, 1, 2)


class NoTensorOut(Net):
    def forward(self, x: Tensor) -> str:
        return f"{super().forward(x).argmax(-1)}"


class Holder:
    """Keeps spikes where nobody looks for tensors."""

    def __init__(self, spikes: Tensor) -> None:
        self.spikes = spikes


class HeldSpikes(neuron.LIFNode):
    def forward(self, x: Tensor) -> Holder:
        return Holder(super().forward(x))


class NoTensorTap(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(layer.Linear(8, 16), HeldSpikes())
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(x).spikes)))


class NoTensorTapUnseen(NoTensorTap):
    def forward(self, x: Tensor) -> Tensor:
        if x.max() <= 2:
            raise ValueError("stronger inputs, please")
        return super().forward(x)


class NameTaken(Net):
    """Owns what heads are called, at the second of its stages."""

    def __init__(self) -> None:
        super().__init__()
        self.layer2[1].shortcut_head = nn.Linear(12, 2)


class HoldsNet(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


def no_spikes() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))


def one_layer() -> nn.Module:
    return nn.Sequential(*stage(8, 16), layer.Linear(16, 4))


def wrapped() -> nn.Module:
    return wrap_with_shortcuts(Net())


def compiled_part() -> nn.Module:
    net = Net()
    net.layer1 = torch.compile(net.layer1)
    return net


def compiled_in_place() -> nn.Module:
    net = Net()
    net.compile()
    return net


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it, and people still have them
        return torch.jit.script(nn.Linear(8, 4))


# Heads.


class SharedHead:
    """A factory that makes one head and gives it to everyone."""

    def __init__(self) -> None:
        self.head = nn.Linear(16, 4)

    def __call__(self, channels: int, num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), self.head)


class GivesNone(nn.Module):
    def forward(self, x: Tensor) -> None:
        return None


# What is left of a model.


def fingerprint(model: Any) -> dict[str, Any]:
    """All of a model and of torch's random numbers that a mistake could change."""
    prints: dict[str, Any] = {"rng": torch.get_rng_state().tolist()}
    if not isinstance(model, nn.Module):
        return prints
    modules = dict(model.named_modules(remove_duplicate=False))
    state = model.state_dict()
    prints |= {
        "repr": repr(model),
        "training": {name: module.training for name, module in modules.items()},
        "hooks": {name: count_hooks(module) for name, module in modules.items()},
        "state": {name: (value.data_ptr(), value.tolist()) for name, value in state.items()},
        "versions": [parameter._version for parameter in model.parameters()],
        "plain": {name: plain_attributes(module) for name, module in modules.items()},
    }
    try:
        prints["pickle"] = pickle.dumps(model)
    except (pickle.PicklingError, AttributeError, RuntimeError, TypeError):
        prints["pickle"] = "this kind of module cannot be pickled"
    return prints


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    plain = (bool, int, float, str, tuple, type(None))
    return {name: value for name, value in vars(module).items() if isinstance(value, plain)}


def count_hooks(module: nn.Module) -> dict[str, int]:
    return {name: len(table) for name, table in vars(module).items() if name.endswith("_hooks")}


def refuse(
    act: Callable[[], Any],
    error: type[Exception],
    text: str,
    model: Any = None,
    but: Sequence[str] = (),
) -> None:
    """Assert that ``act`` raises just this and leaves ``model`` as it was, in all but some."""
    before = {key: value for key, value in fingerprint(model).items() if key not in but}
    with pytest.raises(error) as caught:
        act()
    assert (str(caught.value), caught.type) == (text, error)
    assert {key: value for key, value in fingerprint(model).items() if key not in but} == before


SHARED_DEPTHS = (
    ": called 2 times in one forward, where 'layer2.1' is called 1 time: a module shared between "
    "depths has no one depth"
)
LIST_THEM = " shortcut_points(model) lists them."
AT_KINDS = (
    'at must be "auto", "stages", "all", a number of heads, dotted names or patterns, or a '
    "predicate (name, module) -> bool; got "
)
NEURON_PLACES = (
    ": heads sit on spiking neurons and on the blocks and chains that hold them."
    " shortcut_points(model) lists them."
)
NO_DATA_PARALLEL = (
    "nn.DataParallel copies the model at every step and the heads' logits are lost with the "
    "copies: use torch.nn.parallel.DistributedDataParallel."
)
A_NUMBER_OF_HEADS = (
    " heads: the model has 2 points to choose from (shortcut_points(model) lists them); give a "
    "number from 1 to that."
)
FACTORY = (
    "head must make a new module at each call, head(channels, num_classes) -> nn.Module, such as "
    "the class ShortcutHead; got an instance of "
)

# Name: (what makes the model, arguments of wrap_with_shortcuts, error, text)
BAD_WRAPS: dict[str, tuple[Callable[[], Any], dict[str, Any], type[Exception], str]] = {
    "near name": (
        Net,
        {"at": "layr1.1"},
        ValueError,
        "at='layr1.1' matches no point of the model. Did you mean 'layer1.1', 'layer3.1', "
        "'layer2.1'?" + LIST_THEM,
    ),
    "unlike any name": (
        Net,
        {"at": ["layer1", "zzz"]},
        ValueError,
        "at='zzz' matches no point of the model." + LIST_THEM,
    ),
    "pattern of nothing": (
        Net,
        {"at": "head*"},
        ValueError,
        "at='head*' matches no point of the model." + LIST_THEM,
    ),
    "pattern that is none": (
        Net,
        {"at": "layer[3-1]"},
        ValueError,
        "at='layer[3-1]' is no pattern: bad character range 3-1 at position 6.",
    ),
    "pattern of unusable points": (
        SharedNeuron,
        {"at": "layer2*.*"},
        ValueError,
        "at='layer2*.*' chose only points where no head can sit: 'layer2.1': one module shared by "
        "layer1.1 and layer2.1.",
    ),
    "no names": (
        Net,
        {"at": []},
        ValueError,
        "at is empty: name at least one point, see shortcut_points(model).",
    ),
    "not names": (
        Net,
        {"at": ["layer1", 3]},
        TypeError,
        "at must hold dotted names as strings, got int.",
    ),
    "modules for names": (
        Net,
        {"at": [nn.ReLU()]},
        TypeError,
        "at must hold dotted names as strings, got the module ReLU: give its dotted name.",
    ),
    "at a float": (Net, {"at": 1.5}, TypeError, AT_KINDS + "float."),
    "at None": (Net, {"at": None}, TypeError, AT_KINDS + "NoneType."),
    "at bytes": (Net, {"at": b"layer1"}, TypeError, AT_KINDS + "bytes."),
    "at a class": (
        Net,
        {"at": neuron.LIFNode},
        TypeError,
        AT_KINDS + "the class LIFNode.",
    ),
    "at a module": (
        Net,
        {"at": nn.ReLU()},
        TypeError,
        AT_KINDS + "the module ReLU: give its dotted name.",
    ),
    "at a bool": (
        Net,
        {"at": True},
        TypeError,
        'at must not be a bool; for a head at every spiking layer say at="all".',
    ),
    "no heads": (Net, {"at": 0}, ValueError, "at=0" + A_NUMBER_OF_HEADS),
    "fewer than no heads": (Net, {"at": -1}, ValueError, "at=-1" + A_NUMBER_OF_HEADS),
    "too many heads": (Net, {"at": 3}, ValueError, "at=3" + A_NUMBER_OF_HEADS),
    "at a layer without neuron": (
        Net,
        {"at": "fc"},
        ValueError,
        "no head can sit at 'fc' (Linear)" + NEURON_PLACES,
    ),
    "at the root": (
        Net,
        {"at": ""},
        ValueError,
        "no head can sit at the model itself" + NEURON_PLACES,
    ),
    "at the output": (
        lambda: nn.Sequential(*stage(8, 16), *stage(16, 4)),
        {"at": "3"},
        ValueError,
        "no head can sit at '3' (LIFNode): the model's output itself.",
    ),
    "at what gives no tensor": (
        NoTensorTap,
        {"at": "layer1"},
        ValueError,
        "no head can sit at 'layer1' (Sequential): its output is a Holder without a tensor.",
    ),
    "a chain and its last child": (
        Net,
        {"at": ["layer1", "layer1.1"]},
        ValueError,
        "'layer1.1' and 'layer1' are the same output: name only one of them in at=.",
    ),
    "shared module": (
        SharedNeuron,
        {"at": "layer1.1"},
        ValueError,
        # Neurons of 0.0.0.0.14 cannot run at two widths, so that no made-up batch shows it.
        "no head can sit at 'layer1.1' (LIFNode): one module shared by layer1.1 and layer2.1."
        if has_cupy_backend()
        else "no head can sit at 'layer1.1' (LIFNode): called 2 times in one forward, after "
        "different layers ('layer1.0' and 'layer2.0'): a module shared between depths has no one "
        "depth.",
    ),
    "shared module by its other name": (
        SharedNeuron,
        {"at": "layer2.1"},
        ValueError,
        "no head can sit at 'layer2.1' (LIFNode): one module shared by layer1.1 and layer2.1.",
    ),
    "called twice, seen in a forward": (
        CalledTwice,
        {"at": "layer1.1", "example_input": 3 * torch.ones(2, 3, 8)},
        ValueError,
        "no head can sit at 'layer1.1' (LIFNode)" + SHARED_DEPTHS + ".",
    ),
    "predicate of nothing": (
        Net,
        {"at": lambda name, module: False},
        ValueError,
        "the predicate given as at= chose no point;" + LIST_THEM,
    ),
    "no classes": (
        Net,
        {"num_classes": 0},
        ValueError,
        "num_classes must be at least 1, got 0.",
    ),
    "classes a bool": (
        Net,
        {"num_classes": True},
        TypeError,
        "num_classes must be an int, got bool.",
    ),
    "classes a string": (
        Net,
        {"num_classes": "4"},
        TypeError,
        "num_classes must be an int, got str.",
    ),
    "classes unknown": (
        UnknownClasses,
        {},
        ValueError,
        "the model's last layers do not tell the number of classes: pass num_classes=, or "
        "example_input= to have it read off a forward pass.",
    ),
    "channels unknown": (
        UnknownChannels,
        {"at": "layer2.1"},
        ValueError,
        "no head can sit at 'layer2.1' (LIFNode): channels unknown from the modules: pass "
        "example_input=.",
    ),
    "no spiking layer": (
        no_spikes,
        {},
        ValueError,
        "the model holds no spiking neuron to put a shortcut head on. SpikingJelly's neurons are "
        "found by themselves; name your own classes with neuron_types=(MyNeuron,).",
    ),
    "one layer": (
        one_layer,
        {},
        ValueError,
        'at="auto", "stages", "all" and a number of heads find no spiking layer to put one on. '
        "Looked at: '1' (the classifier's own feature: left out unless named). Name a point with "
        "at=[...];" + LIST_THEM,
    ),
    "own neurons a class": (
        Net,
        {"neuron_types": nn.ReLU},
        TypeError,
        "neuron_types must be a tuple of classes, such as neuron_types=(MyNeuron,); got <class "
        "'torch.nn.modules.activation.ReLU'>.",
    ),
    "not a model": (
        lambda: [1, 2],
        {},
        TypeError,
        "model must be a torch.nn.Module, got list.",
    ),
    "class of a model": (
        lambda: Net,
        {},
        TypeError,
        "model must be a torch.nn.Module, got the class Net: make one, as in Net(...).",
    ),
    "in DataParallel": (lambda: nn.DataParallel(Net()), {}, TypeError, NO_DATA_PARALLEL),
    "compiled": (
        lambda: torch.compile(Net()),
        {},
        TypeError,
        "OptimizedModule cannot be wrapped: it is compiled already. Call wrap_with_shortcuts "
        "first, then compile.",
    ),
    "compiled in place": (
        compiled_in_place,
        {},
        TypeError,
        "Net cannot be wrapped: it is compiled already. Call wrap_with_shortcuts first, then "
        "compile.",
    ),
    "compiled in part": (
        compiled_part,
        {},
        TypeError,
        "Net cannot be wrapped: its submodule 'layer1' is compiled already. Call "
        "wrap_with_shortcuts first, then compile.",
    ),
    "scripted": (
        scripted,
        {},
        TypeError,
        "RecursiveScriptModule is compiled by torch.jit and takes no heads: wrap the original.",
    ),
    "wrapped already": (
        wrapped,
        {},
        ValueError,
        "Net cannot be wrapped: it has shortcuts already. To change them, call remove_shortcuts "
        "first.",
    ),
    "a part wrapped already": (
        lambda: HoldsNet(wrapped()),
        {},
        ValueError,
        "HoldsNet cannot be wrapped: its submodule 'inner' has shortcuts already. To change them, "
        "call remove_shortcuts first.",
    ),
    "a part of a wrapped model": (
        lambda: wrapped().layer1,
        {},
        ValueError,
        "Sequential cannot be wrapped: it has shortcuts already. To change them, call "
        "remove_shortcuts first.",
    ),
    "head is None": (
        Net,
        {"head": lambda channels, num_classes: None},
        TypeError,
        "head(channels, num_classes) must return a torch.nn.Module, got NoneType for 'layer1.1'.",
    ),
    "a module for a factory": (
        Net,
        {"head": ShortcutHead(16, 4)},
        TypeError,
        FACTORY + "ShortcutHead.",
    ),
    "a string for a factory": (Net, {"head": "linear"}, TypeError, FACTORY + "str."),
    "one head for two points": (
        Net,
        {"head": SharedHead()},
        ValueError,
        "head(channels, num_classes) returned for 'layer2.1' a Linear that belongs to the head at "
        "'layer1.1' already: make a new one at each call.",
    ),
    "name taken": (
        NameTaken,
        {},
        ValueError,
        "'layer2.1' already has an attribute 'shortcut_head', the name shortcut heads go by: "
        "rename yours, or choose another point with at=.",
    ),
    "example of a wrong width": (
        Net,
        {"example_input": torch.ones(2, 3, 5)},
        ValueError,
        "example_input could not be run through Net: RuntimeError: mat1 and mat2 shapes cannot be "
        "multiplied (6x5 and 8x16). Pass what the model's forward takes, [T, N, ...] in step mode "
        "'m', [N, ...] in step mode 's'.",
    ),
    "example of no tensor": (
        Net,
        {"example_input": "image.png"},
        ValueError,
        "example_input could not be run through Net: TypeError: linear(): argument 'input' "
        "(position 1) must be Tensor, not str. Pass what the model's forward takes, [T, N, ...] in "
        "step mode 'm', [N, ...] in step mode 's'.",
    ),
    "unknown backend": (
        Net,
        {"backend": "trition"},
        ValueError,
        "backend must be one of 'auto', 'torch', 'cupy', 'triton', not 'trition'. Did you mean "
        "'triton'?",
    ),
}


@pytest.mark.parametrize(("make", "arguments", "error", "text"), BAD_WRAPS.values(), ids=BAD_WRAPS)
def test_a_refused_wrap_says_why_and_changes_nothing(make, arguments, error, text):
    model = make()
    refuse(lambda: wrap_with_shortcuts(model, **arguments), error, text, model)


def test_a_head_may_not_be_a_part_of_the_model():
    model = Net()

    def steal(channels: int, num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), model.fc)

    text = (
        "head(channels, num_classes) returned for 'layer1.1' a Linear that belongs to the model "
        "already: make a new one at each call."
    )
    refuse(lambda: wrap_with_shortcuts(model, head=steal), ValueError, text, model)


def test_wrapping_comes_before_distributed_data_parallel():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(Net())
        text = (
            "model is inside DistributedDataParallel already: call wrap_with_shortcuts on the "
            "model itself, before making it DistributedDataParallel."
        )
        refuse(lambda: wrap_with_shortcuts(model), TypeError, text, model)
    finally:
        dist.destroy_process_group()


NOTHING_TO_REMOVE = (
    " has no shortcuts to remove: they were removed already, or wrap_with_shortcuts was not called "
    "on it."
)
BAD_REMOVALS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "never wrapped": (Net, ValueError, "Net" + NOTHING_TO_REMOVE),
    "removed already": (
        lambda: remove_shortcuts(wrapped()),
        ValueError,
        "Net" + NOTHING_TO_REMOVE,
    ),
    "holds the wrapped model": (
        lambda: HoldsNet(wrapped()),
        ValueError,
        "HoldsNet" + NOTHING_TO_REMOVE + " Its submodule 'inner' has: pass that.",
    ),
    "part of the wrapped model": (
        lambda: wrapped().layer1,
        ValueError,
        "Sequential" + NOTHING_TO_REMOVE + " It is a part of a wrapped model: pass the whole.",
    ),
    "compiled": (
        lambda: torch.compile(wrapped()),
        ValueError,
        "OptimizedModule" + NOTHING_TO_REMOVE + " Its submodule '_orig_mod' has: pass that.",
    ),
    "not a model": (lambda: 3, TypeError, "model must be a torch.nn.Module, got int."),
}


@pytest.mark.parametrize(("make", "error", "text"), BAD_REMOVALS.values(), ids=BAD_REMOVALS)
def test_a_refused_removal_says_why_and_changes_nothing(make, error, text):
    model = make()
    refuse(lambda: remove_shortcuts(model), error, text, model)


NOT_WRAPPED = " has no shortcuts: call wrap_with_shortcuts(model) first."
BAD_LOOKUPS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "never wrapped": (Net, ValueError, "Net" + NOT_WRAPPED),
    "two wrapped models": (
        lambda: nn.ModuleList([wrapped(), wrapped()]),
        ValueError,
        "ModuleList holds 2 wrapped models: pass one.",
    ),
    "in DataParallel": (lambda: nn.DataParallel(wrapped()), TypeError, NO_DATA_PARALLEL),
    "not a model": (lambda: "net", TypeError, "model must be a torch.nn.Module, got str."),
}


@pytest.mark.parametrize(
    "look", [shortcut_branches, shortcut_logits, lambda model: ShortcutLoss(model, nn.MSELoss())]
)
@pytest.mark.parametrize(("make", "error", "text"), BAD_LOOKUPS.values(), ids=BAD_LOOKUPS)
def test_heads_are_looked_for_in_one_wrapped_model(look, make, error, text):
    model = make()
    refuse(lambda: look(model), error, text, model)


@pytest.mark.parametrize("look", [has_shortcuts, shortcut_points])
def test_only_a_module_is_a_model(look):
    text = "model must be a torch.nn.Module, got the class Net: make one, as in Net(...)."
    refuse(lambda: look(Net), TypeError, text)


def test_logits_before_any_forward():
    model = wrapped()
    text = (
        "the shortcut heads at 'layer1.1', 'layer2.1' have no logits: their points were not "
        "reached by a forward pass since the last reset_net. Heads run in training mode with "
        "gradients on (in eval mode inside shortcuts_enabled(model)); what calls a module's "
        "forward around its hooks leaves them out, such as SpikingJelly's to_functional_forward, "
        "and its memopt if it came after wrap_with_shortcuts."
    )
    refuse(lambda: shortcut_logits(model), RuntimeError, text, model)


# The first forward finds what the modules did not tell.

BAD_FORWARDS: dict[str, tuple[Callable[[], nn.Module], type[Exception], str]] = {
    "channels guessed wrong": (
        lambda: wrap_with_shortcuts(HalvedChannels(), "layer1"),
        ValueError,
        "the shortcut head at 'layer1' was made for 32 channels, but its point gave (2, 3, 16), "
        "seen as TNC, with 16. Pass example_input= to wrap_with_shortcuts, or layout= if the axes "
        "were misread.",
    ),
    "step mode of the other kind": (
        lambda: wrap_with_shortcuts(Net("s"), "layer1"),
        ValueError,
        "the model's output [2, 3, 4] has one row a position or token, a per-position (dense) "
        "prediction, not one a sample. Shortcut heads need class logits [N, K], one row a sample: "
        "this output has none. If its first axis is time, no spiking layer ran it as such: "
        "functional.set_step_mode(model, 'm').",
    ),
    "classes guessed wrong": (
        lambda: wrap_with_shortcuts(TwiceTheClasses()),
        ValueError,
        "the model gave 8 classes but its last layers looked like 4 classes: pass num_classes= or "
        "example_input= to wrap_with_shortcuts.",
    ),
    "no tensor at the point": (
        lambda: wrap_with_shortcuts(NoTensorTapUnseen(), "layer1"),
        TypeError,
        "the output of 'layer1' is a Holder without a tensor, and a shortcut head needs one: "
        "choose another point with at=.",
    ),
    "no tensor at the end": (
        lambda: wrap_with_shortcuts(NoTensorOut()),
        TypeError,
        "the model's output is a str without a tensor: shortcut heads need one to hang on. Return "
        "tensors, in a tuple, list, dict or dataclass.",
    ),
    "one module called twice": (
        lambda: wrap_with_shortcuts(CalledTwice(), "layer1.1"),
        RuntimeError,
        "'layer1.1' was called 2 times in one forward, where 'layer2.1' is called 1 time: a module "
        "shared between depths has no one depth. Choose another point with at=.",
    ),
    "head with too many classes": (
        lambda: wrap_with_shortcuts(Net(), head=lambda channels, k: ShortcutHead(channels, k + 1)),
        ValueError,
        "the head at 'layer1.1' gave (3, 5) where logits [N, 4] were due: mend what head=(channels,"
        " num_classes) returns.",
    ),
    "head without batch": (
        lambda: wrap_with_shortcuts(Net(), head=lambda channels, k: nn.Flatten(0)),
        ValueError,
        "the head at 'layer1.1' gave (48,) where logits [N, 4] were due: mend what head=(channels, "
        "num_classes) returns.",
    ),
    "head without logits": (
        lambda: wrap_with_shortcuts(Net(), head=lambda channels, k: GivesNone()),
        ValueError,
        "the head at 'layer1.1' gave NoneType where logits [N, 4] were due: mend what "
        "head=(channels, num_classes) returns.",
    ),
}


@pytest.mark.parametrize(("make", "error", "text"), BAD_FORWARDS.values(), ids=BAD_FORWARDS)
def test_a_first_forward_that_cannot_be_says_why(make, error, text):
    model = make()
    functional.set_step_mode(model, model.layer3[1].step_mode)  # heads follow their points anyway
    x = images()

    def forward() -> None:
        try:
            model(x)
        finally:
            functional.reset_net(model)

    refuse(forward, error, text, model, but=("pickle",))  # what was seen of the axes is kept


def test_a_point_inside_a_container_takes_a_head():
    """Where time and batch share one axis, its gradients are those of the container's output."""
    model = wrap_with_shortcuts(InContainer(), "layer2.2")
    twin = copy.deepcopy(model)
    branches = shortcut_branches(twin)
    remove_shortcuts(twin)
    x = images()
    ShortcutLoss(model, nn.CrossEntropyLoss())(model(x).mean(0), labels()).backward()

    features = twin.layer2(twin.layer1(x))
    output = twin.fc(twin.layer3(features)).mean(0)
    logits = branches["layer2.2"].head(features.mean(0))
    sum(nn.functional.cross_entropy(each, labels()) for each in (output, logits)).backward()
    own = [p for name, p in model.named_parameters() if "shortcut" not in name]
    for a, b in zip(own, twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_target_that_is_no_tensor_goes_to_the_criterion():
    model = wrapped()
    seen = []

    def criterion(logits: Tensor, target: dict[str, Tensor]) -> Tensor:
        seen.append(target)
        return nn.functional.cross_entropy(logits, target["classes"])

    target = {"classes": labels()}
    ShortcutLoss(model, criterion)(model(images()).mean(0), target).backward()
    assert len(seen) == 3 and all(each is target for each in seen)


# The loss.


class Weird(ShortcutSchedule):
    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, epoch: float) -> Any:
        return self.value


HEADS = " Heads: layer1.1, layer2.1."
SCHEDULES = (
    "schedule must be a ShortcutSchedule, such as EvolutionarySchedule(epochs) or "
    "ConstantSchedule(1.0); got "
)
WEIGHTS = (
    "weights must be numbers, by the name of a head or in order of depth, such as "
    "{'layer1.1': 0.5}; got "
)
BAD_LOSSES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "criterion not callable": (
        {"criterion": "ce"},
        TypeError,
        "criterion must be callable as criterion(logits, target), such as nn.CrossEntropyLoss(); "
        "got str.",
    ),
    "criterion a class": (
        {"criterion": nn.CrossEntropyLoss},
        TypeError,
        "criterion is the class CrossEntropyLoss itself: pass an instance, such as "
        "CrossEntropyLoss().",
    ),
    "schedule a number": ({"schedule": 0.5}, TypeError, SCHEDULES + "float."),
    "schedule a function": (
        {"schedule": abs},
        TypeError,
        SCHEDULES + "builtin_function_or_method.",
    ),
    "combine unknown": (
        {"combine": "sum"},
        ValueError,
        'combine must be "loss" or "logits", got \'sum\'.',
    ),
    "per_step no bool": (
        {"per_step": "yes"},
        TypeError,
        "per_step must be True or False, got 'yes'.",
    ),
    "weight of no head": (
        {"weights": {"layer1": 1.0}},
        ValueError,
        "weights names no head 'layer1'. Did you mean 'layer2.1', 'layer1.1'?" + HEADS,
    ),
    "weight of a number": (
        {"weights": {1: 1.0}},
        ValueError,
        "weights names no head '1'." + HEADS,
    ),
    "too few weights": (
        {"weights": [1.0]},
        ValueError,
        "weights has 1 entries for 2 heads: layer1.1, layer2.1.",
    ),
    "weights one number": ({"weights": 0.5}, TypeError, WEIGHTS + "0.5."),
    "weights a string": ({"weights": "ab"}, TypeError, WEIGHTS + "'ab'."),
    "weight negative": (
        {"weights": {"layer2.1": -0.1}},
        ValueError,
        "the weight of 'layer2.1' must be finite and at least 0, got -0.1.",
    ),
    "weight NaN": (
        {"weights": [1, float("nan")]},
        ValueError,
        "the weight of 'layer2.1' must be finite and at least 0, got nan.",
    ),
    "weight a bool": (
        {"weights": [True, 1]},
        TypeError,
        "the weight of 'layer1.1' must be a number, got True.",
    ),
    "weight a string": (
        {"weights": {"layer1.1": "1"}},
        TypeError,
        "the weight of 'layer1.1' must be a number, got '1'.",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "text"), BAD_LOSSES.values(), ids=BAD_LOSSES)
def test_a_refused_loss_says_why_and_changes_nothing(arguments, error, text):
    model = wrapped()
    arguments = {"criterion": nn.CrossEntropyLoss(), **arguments}
    refuse(lambda: ShortcutLoss(model, **arguments), error, text, model)


OTHER_FORWARD = (
    ": pass the output of the same forward, averaged over time ([N, K]; [T, N, K] with "
    "per_step=True), and the right num_classes= to wrap_with_shortcuts."
)
# Name: (arguments of the loss, what becomes of the output [T, N, K], target, error, text)
BAD_CALLS: dict[str, tuple[dict[str, Any], Callable[[Tensor], Any], Any, type[Exception], str]] = {
    "time not averaged": (
        {},
        lambda out: out,
        labels(),
        ValueError,
        "output must be logits [N, K], got (2, 3, 4): average over time first, as in "
        "model(x).mean(0), or set per_step=True.",
    ),
    "time averaged per step": (
        {"per_step": True},
        lambda out: out.mean(0),
        labels(),
        ValueError,
        "per_step=True needs the logits of every time step, [T, N, K], got (3, 4): pass model(x), "
        "not model(x).mean(0).",
    ),
    "output a tuple": (
        {},
        lambda out: (out.mean(0), out),
        labels(),
        TypeError,
        "output must be the model's logits as a tensor, got tuple.",
    ),
    "target a list": (
        {},
        lambda out: out.mean(0),
        [0, 1, 2],
        TypeError,
        "cross_entropy_loss(): argument 'target' (position 2) must be Tensor, not list",
    ),
    "target of another batch": (
        {},
        lambda out: out.mean(0),
        labels(2),
        ValueError,
        "target has shape (2,); for logits of 3 samples and 4 classes CrossEntropyLoss needs (3,) "
        "or (3, 4).",
    ),
    "one-hot of other classes": (
        {"criterion": nn.MSELoss()},
        lambda out: out.mean(0),
        torch.zeros(3, 5),
        ValueError,
        "target has shape (3, 5); for logits of 3 samples and 4 classes MSELoss needs (3, 4).",
    ),
    "output of another batch": (
        {},
        lambda out: out.mean(0).repeat(2, 1),
        labels(6),
        ValueError,
        "the output has 6 samples, but the forward that it comes from gave the heads 3: pass the "
        "whole output, as the model gave it.",
    ),
    "output of fewer steps": (
        {"per_step": True},
        lambda out: out[:1],
        labels(),
        ValueError,
        "the model's output is (1, 3, 4) but the head at 'layer1.1' gave (2, 3, 4): pass the "
        "output of all time steps, [T, N, K].",
    ),
    "criterion returns a float": (
        {"criterion": lambda logits, target: 1.0},
        lambda out: out.mean(0),
        labels(),
        TypeError,
        "criterion must return the loss as a tensor, got float.",
    ),
}


@pytest.mark.parametrize(
    ("arguments", "change", "target", "error", "text"), BAD_CALLS.values(), ids=BAD_CALLS
)
def test_a_loss_of_what_does_not_fit_says_why(arguments, change, target, error, text):
    model = wrapped()
    criterion = ShortcutLoss(model, **{"criterion": nn.CrossEntropyLoss(), **arguments})
    output = model(images())
    parts = dict(criterion.parts)

    refuse(lambda: criterion(change(output), target), error, text)
    assert criterion.parts == parts
    functional.reset_net(model)
    good = model(images())
    plain = ShortcutLoss(model, nn.CrossEntropyLoss())
    assert arguments.get("per_step") or plain(good.mean(0), labels()).isfinite()


BAD_COEFFICIENTS = {
    "NaN": (
        Weird(float("nan")),
        ValueError,
        "the schedule gave the coefficient nan; it must be finite and at least 0.",
    ),
    "less than 0": (
        Weird(-0.5),
        ValueError,
        "the schedule gave the coefficient -0.5; it must be finite and at least 0.",
    ),
    "nothing": (
        Weird(None),
        TypeError,
        "the schedule gave the coefficient None; it must be a number, such as a float.",
    ),
}


@pytest.mark.parametrize(
    ("schedule", "error", "text"), BAD_COEFFICIENTS.values(), ids=BAD_COEFFICIENTS
)
def test_a_schedule_that_gives_what_weighs_nothing_says_why(schedule, error, text):
    model = wrapped()
    refuse(lambda: ShortcutLoss(model, nn.CrossEntropyLoss(), schedule, per_step=True), error, text)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    before = criterion.schedule

    def another() -> None:
        criterion.schedule = schedule

    refuse(another, error, text)
    assert criterion.schedule is before
    assert criterion(model(images()).mean(0), labels()).isfinite()


@pytest.mark.parametrize("schedule", [0.5, None, HandoverSchedule, HandoverSchedule()])
def test_another_schedule_is_checked_as_the_first_one_is(schedule):
    model = wrapped()
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), combine="logits")
    before = criterion.schedule
    error = ValueError if isinstance(schedule, HandoverSchedule) else TypeError
    with pytest.raises(error, match="schedule must be|compares the losses of the heads"):
        criterion.schedule = schedule
    assert criterion.schedule is before
    assert criterion(model(images()).mean(0), labels()).isfinite()


def test_heads_made_for_another_number_of_classes():
    model = wrap_with_shortcuts(Net(), num_classes=CLASSES + 1)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    output = model(images()).mean(0)
    text = "the model's output is (3, 4) but the head at 'layer1.1' gave (3, 5)" + OTHER_FORWARD
    refuse(lambda: criterion(output, labels()), ValueError, text)


# Schedules.

BAD_SCHEDULES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no epochs": (
        lambda: EvolutionarySchedule(0),
        ValueError,
        "epochs must be above 0, not 0.",
    ),
    "fewer than no epochs": (
        lambda: EvolutionarySchedule(-5),
        ValueError,
        "epochs must be above 0, not -5.",
    ),
    "epochs a string": (
        lambda: EvolutionarySchedule("100"),
        TypeError,
        "epochs must be a number, not str: '100'.",
    ),
    "shape unknown": (
        lambda: EvolutionarySchedule(10, "liner"),
        ValueError,
        "unknown shape 'liner'; known are linear, cosine, exponential, step. Did you mean "
        "'linear'?",
    ),
    "hold in epochs": (
        lambda: EvolutionarySchedule(10, hold=5),
        ValueError,
        "hold must be at least 0 and less than 1, not 5.0. It is the fraction of the training "
        "before λ falls, not a number of epochs.",
    ),
    "rising": (
        lambda: EvolutionarySchedule(10, start=0, end=1),
        ValueError,
        "start (0.0) must not be less than end (1.0): λ falls as training goes on. Swap the two.",
    ),
    "constant NaN": (
        lambda: ConstantSchedule(float("nan")),
        ValueError,
        "coefficient must be a finite number that fits a float, not nan.",
    ),
    "constant negative": (
        lambda: ConstantSchedule(-1),
        ValueError,
        "coefficient must be 0 or more, not -1.",
    ),
    "constant a bool": (
        lambda: ConstantSchedule(True),
        TypeError,
        "coefficient must be a number, not bool: True.",
    ),
    "epoch before the first": (
        lambda: ConstantSchedule().step(-1),
        ValueError,
        "epoch must be 0 or more, not -1. The first epoch is 0.",
    ),
}


@pytest.mark.parametrize(("make", "error", "text"), BAD_SCHEDULES.values(), ids=BAD_SCHEDULES)
def test_a_schedule_of_bad_numbers_says_why(make, error, text):
    refuse(make, error, text)
