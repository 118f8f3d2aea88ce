"""SpikingJelly's models and example networks: how each is made, run, and where its axes are."""

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from analysis.zoo.scripts import from_script

__all__ = ["Entry", "by_cost", "entries"]

BASE = "spikingjelly.activation_based.model"
# A threshold low enough for spikes to reach the last layers of untrained networks.
LIF: dict[str, Any] = {"spiking_neuron": neuron.LIFNode, "v_threshold": 0.1}


@dataclass(frozen=True)
class Entry:
    """One model or example network.

    Attributes:
        name: What the table calls it.
        make: Makes it; raises where this SpikingJelly has none.
        shape: Shape of its input.
        mode: Step mode to set; "" to leave it as it is made.
        loop: Whether the user's code runs it step by step over the first axis.
        axes: Axes of its features, by hand from its source: one text for all, or one by the number
            of axes.
        logits: Takes the class logits [N, K] out of what it gives.
        wrap: Arguments that ``wrap_with_shortcuts`` needs besides the model.
        before: Called with the model before each forward, as its script does.
        after: Called with the model after each forward, likewise.
        refusal: What the error must say where no head can be right.
        why: The same in words of the table.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    mode: str = "m"
    loop: bool = False
    axes: str | dict[int, str] = "TNC..."
    logits: Callable[[Any], Tensor] | None = None
    wrap: Callable[[Any], dict[str, Any]] | None = None
    before: Callable[[nn.Module], Any] = functional.reset_net
    after: Callable[[nn.Module], Any] = lambda model: None
    refusal: str = ""
    why: str = ""

    def built(self) -> nn.Module:
        """The model, as its script would run it."""
        torch.manual_seed(0)
        model = self.make()
        if self.mode:
            functional.set_step_mode(model, self.mode)
        return model.train()

    def input(self) -> Tensor:
        """Strong enough for deep layers to spike."""
        return 2 * torch.rand(self.shape, generator=torch.Generator().manual_seed(1))


def entries() -> list[Entry]:
    """All of them, in the order of the table."""
    return [*_resnets(), *_plif(), *_attention(), *_vggs(), *_searched(), *_examples(), *_agents()]


def by_cost() -> list[Entry]:
    """The same, what takes minutes last."""
    heavy = ("vgg", "former", "sdt", "snas", "dhs")
    heaviest = ("101", "152", "wide", "next", "vgg13", "vgg16", "vgg19", "former_s", "former_t")

    def cost(entry: Entry) -> int:
        return sum(any(word in entry.name for word in words) for words in (heavy, heaviest))

    return sorted(entries(), key=cost)


def _model(module: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        made: nn.Module = getattr(importlib.import_module(f"{BASE}.{module}"), name)(**options)
        return made

    return make


def _script(path: str | tuple[str, ...], name: str, *args: Any, **names: Any) -> Any:
    """Makes a network of a script, under the name that either generation gives it."""

    def make() -> nn.Module:
        paths = (path,) if isinstance(path, str) else path
        for i, one in enumerate(paths):
            try:
                made: nn.Module = from_script(one, name, **names)(*args)
            except FileNotFoundError:
                if i == len(paths) - 1:
                    raise
            else:
                return made
        raise AssertionError

    return make


def _resnets() -> list[Entry]:
    small = (2, 2, 3, 64, 64)
    found = []
    for depth in ("18", "34", "50", "101", "152", "x50_32x4d", "x101_32x8d"):
        name = f"spiking_resn{depth}" if depth[0] == "x" else f"spiking_resnet{depth}"
        name = name.replace("resnx", "resnext")
        found.append(Entry(f"spiking_resnet.{name}", _model("spiking_resnet", name, **LIF), small))
    for wide in ("50", "101"):
        name = f"spiking_wide_resnet{wide}_2"
        found.append(Entry(f"spiking_resnet.{name}", _model("spiking_resnet", name, **LIF), small))
    sew = {**LIF, "cnf": "ADD"}
    names = [f"sew_resnet{depth}" for depth in (18, 34, 50, 101, 152)]
    names += ["sew_resnext50_32x4d", "sew_resnext101_32x8d"]
    names += ["sew_wide_resnet50_2", "sew_wide_resnet101_2"]
    found += [Entry(f"sew_resnet.{n}", _model("sew_resnet", n, **sew), small) for n in names]
    few: dict[str, Any] = {"T": 2, "num_classes": 10, "v_threshold": 0.1}
    image = (2, 3, 64, 64)
    for name in ("ms_resnet18", "ms_resnet34", "max_resnet18"):
        found.append(Entry(f"ms_resnet.{name}", _model("ms_resnet", name, **few), image, ""))
    return found


def _vggs() -> list[Entry]:
    found = []
    for depth in (11, 13, 16, 19):
        for name in (f"spiking_vgg{depth}", f"spiking_vgg{depth}_bn"):
            make = _model("spiking_vgg", name, **LIF)
            found.append(Entry(f"spiking_vgg.{name}", make, (2, 2, 3, 32, 32)))
    names = [f"ottt_spiking_vgg{d}{ws}" for d in (11, 13, 16, 19) for ws in ("", "_ws")]
    for name in [*names, "ottt_spiking_vggws"]:
        make = _model("spiking_vggws_ottt", name, num_classes=10)
        row = f"spiking_vggws_ottt.{name}"
        found.append(Entry(row, make, (2, 2, 3, 32, 32), "s", loop=True, axes="NC..."))
    return found


def _plif() -> list[Entry]:
    found = []
    for name, shape in (
        ("MNISTNet", (1, 28, 28)),
        ("FashionMNISTNet", (1, 28, 28)),
        ("NMNISTNet", (2, 34, 34)),
        ("CIFAR10Net", (3, 32, 32)),
        ("CIFAR10DVSNet", (2, 128, 128)),
        ("DVSGestureNet", (2, 128, 128)),
    ):
        options = {"channels": 16, **LIF, "spiking_neuron": neuron.ParametricLIFNode}
        make = _model("parametric_lif_net", name, **options)
        found.append(Entry(f"parametric_lif_net.{name}", make, (2, 2, *shape)))
    return found


def _attention() -> list[Entry]:
    few: dict[str, Any] = {"T": 2, "num_classes": 10}
    tiny = {**few, "embed_dims": 48, "depths": 2, "img_size_h": 64, "img_size_w": 64}
    image, events = (2, 3, 64, 64), (5, 2, 2, 32, 32)
    large = (1, 3, 224, 224)
    rows = [
        ("masnn", "masnn_dvs128_gesture", {"T": 5}, events),
        ("masnn", "att_ms_resnet18", few, image),
        ("spikformer", "Spikformer", {**tiny, "num_heads": 4}, image),
        ("spikformer", "spikformer_cifar10", {"T": 2}, (2, 3, 32, 32)),
        ("spikformer", "spikformer_ti", few, large),
        ("spikformer", "spikformer_s", few, large),
        ("qkformer", "qkformer_10_384", few, image),
        ("maxformer", "maxformer_cifar", few, (2, 3, 32, 32)),
        ("maxformer", "maxformer_10_384", few, image),
        ("spike_driven_transformer", "sdt_8_384", few, image),
    ]
    return [Entry(f"{m}.{n}", _model(m, n, **options), shape, "") for m, n, options, shape in rows]


def _searched() -> list[Entry]:
    # A cell and its connections as a search might give them.
    links = torch.tensor([[0, 2, 3, 1], [0, 0, 4, 2], [0, 0, 0, 3], [0, 0, 0, 0]])
    options = {"timestep": 2, "second_avgpooling": 2, "dataset": "cifar10", "threshold": 0.1}
    found = []
    for kind in ("forward", "backward"):
        args = Namespace(**options, tau=4.0 / 3.0, celltype=kind)
        make = _model("snas_net", "SNASNet", args=args, con_mat=links)
        found.append(Entry(f"snas_net.SNASNet ({kind})", make, (2, 3, 32, 32), "", axes="NC..."))
    sizes = {"fea_step": 3, "fea_num_layers": 8, "fea_block_multiplier": 3}
    args = Namespace(**sizes, fea_filter_multiplier=48)
    make = _model("spike_dhs", "SpikeDHS", args=args)
    found.append(Entry("spike_dhs.SpikeDHS", make, (2, 3, 32, 32), "", logits=lambda y: y[0]))
    return found


_OUTPUT: dict[str, Any] = {
    "refusal": "the model's output itself",
    "why": "its only spiking layer is the output",
}
_ONE: dict[str, Any] = {
    "refusal": "the classifier's own feature",
    "why": "its only hidden spiking layer is the classifier's own feature",
}
_CELL: dict[str, Any] = {
    "refusal": "holds no spiking neuron",
    "why": "its recurrent cell spikes inside, but has no spiking layer as a module",
}


def _examples() -> list[Entry]:
    events = (2, 4, 2, 48, 48)
    return [
        Entry("lif_fc_mnist.SNN", _script("lif_fc_mnist.py", "SNN", 2.0), (2, 2, 1, 28, 28), "s",
              loop=True, axes="NC...", **_OUTPUT),
        Entry("conv_fashion_mnist.CSNN", _script("conv_fashion_mnist.py", "CSNN", 4, 8),
              (2, 1, 28, 28), ""),
        Entry("lava_mnist.MNISTNet", _script("lava_mnist.py", "MNISTNet", 8), (2, 2, 1, 28, 28)),
        *(Entry(f"rsnn_sequential_fmnist.{name}", _script("rsnn_sequential_fmnist.py", name),
                (28, 2, 28), **_ONE)
          for name in ("PlainNet", "StatefulSynapseNet", "FeedBackNet")),
        Entry("spiking_lstm_sequential_mnist.Net", _script("spiking_lstm_sequential_mnist.py",
              "Net"), (28, 2, 28), "", **_CELL),
        Entry("spiking_lstm_text.Net", _script("spiking_lstm_text.py", "Net", 57, 32, 18),
              (7, 2, 57), "", **_CELL),
        Entry("speech_commands.Net", _script(("speech_commands.py", "speechcommands.py"), "Net",
              delta_order=0, label_cnt=12, backend="torch"), (2, 1, 101, 40), "",
              axes={4: "NCTF", 3: "NTC"}),
        Entry("cifar10_r11….ResNet11", _script(
            "cifar10_r11_enabling_spikebased_backpropagation.py", "ResNet11"), (2, 2, 3, 32, 32),
            "s", loop=True, axes="NC...",
            wrap=lambda model: {"neuron_types": (type(model.lif_out).__mro__[1],),
                                "layout": "NC..."}, after=_scale_gradients),
        Entry("classify_dvsg: DVSGestureNet", _gesture_net, (2, 2, 2, 128, 128)),
        Entry("train_flexsn_compile: spiking_vgg11_bn", _flexsn_vgg, (2, 2, 3, 32, 32)),
        Entry("memopt.CIFAR10DVSVGG", _script("memopt/models.py", "CIFAR10DVSVGG"), events, "",
              logits=lambda y: y.mean(0)),
        Entry("plasticity.mstdp, mstdpet, stdp_trace: Linear, IFNode", _linear_and_neuron,
              (2, 2, 8), "s", loop=True, axes="NC...", **_OUTPUT),
        Entry("profiling.nsys_lif: LIFNode, Linear", _neuron_and_linear, (2, 2, 128), **_ONE),
        Entry("profiling.nsys_multigpu._SmallStage", _small_stages, (2, 4, 64), "", axes="NTC...",
              before=lambda model: None, **_ONE),
    ]  # fmt: skip


def _scale_gradients(model: nn.Module) -> None:
    """Its training loop weighs the surrogate gradients of each neuron after the forward pass."""
    for module in model.modules():
        if hasattr(module, "new_grad"):
            module.new_grad = torch.ones(())


def _gesture_net() -> nn.Module:
    options = {"channels": 16, **LIF, "surrogate_function": surrogate.ATan(), "detach_reset": True}
    return _model("parametric_lif_net", "DVSGestureNet", **options)()


def _flexsn_vgg() -> nn.Module:
    from spikingjelly.activation_based.neuron.flexsn import FlexSN

    sharp = surrogate.Sigmoid(alpha=4.0)

    def core(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = v + (x - v) / 2.0
        s = sharp(h - 0.1)
        return s, h * (1.0 - s)

    def make_flexsn(**kwargs: Any) -> nn.Module:
        made: nn.Module = FlexSN(core=core, num_states=1, step_mode="m")
        return made

    return _model("spiking_vgg", "spiking_vgg11_bn", spiking_neuron=make_flexsn)()


def _linear_and_neuron() -> nn.Module:
    from spikingjelly.activation_based import layer

    return nn.Sequential(layer.Linear(8, 4, bias=False), neuron.IFNode())


def _neuron_and_linear() -> nn.Module:
    return nn.Sequential(neuron.LIFNode(step_mode="m"), nn.Linear(128, 10))


def _small_stages() -> nn.Module:
    stage = from_script("profiling/nsys_multigpu.py", "_SmallStage")
    return nn.Sequential(stage(0), stage(1))


def _agents() -> list[Entry]:
    state = (5, 4)
    actor = partial(_actor, encode="pop-det", decode="fr-mlp")
    return [
        Entry("dsqn.DSQN", _script("dsqn/utils/model.py", "DSQN", (4, 84, 84), 6), (2, 4, 84, 84),
              ""),
        Entry("spiking_dqn_state.DQSN", _script(("spiking_dqn_state.py", "Spiking_DQN_state.py"),
              "DQSN", 4, 32, 2), state, "", axes="NC...", **_ONE),
        Entry("spiking_a2c.ActorCritic", _script(("spiking_a2c.py", "Spiking_A2C.py"),
              "ActorCritic", 4, 2, 32), state, "", axes="NC...",
              logits=lambda y: y[0].logits, **_ONE),
        Entry("spiking_ppo.ActorCritic", _script(("spiking_ppo.py", "Spiking_PPO.py"),
              "ActorCritic", 4, 2, 32), state, "", axes="NC...", logits=lambda y: y[0].mean,
              **_ONE),
        Entry("ilc_san.PopSpikeActor", actor, (5, 3), ""),
        Entry("noisy_san.NoisyPopSpikeActor", _noisy_actor, (5, 3), "",
              before=_reset_with_noise),
    ]  # fmt: skip


def _actor(encode: str, decode: str) -> nn.Module:
    make = from_script("ilc_san/ilc_san.py", "PopSpikeActor")
    made: nn.Module = make(3, 2, 10, 10, [32, 32], (-3, 3), 0.15**0.5, 5, encode, decode, 1.0)
    return made


def _noisy_actor() -> nn.Module:
    make = from_script("noisy_san/noisy_san.py", "NoisyPopSpikeActor")
    made: Any = make(3, 2, 10, 10, [32, 32], (-3, 3), 0.15**0.5, 5, 1.0, 1.0, 0.5)
    made.get_colored_noise_length()
    return nn.Sequential(made)[0]


def _reset_with_noise(model: Any) -> None:
    functional.reset_net(model)
    model.reset_noise(1)
