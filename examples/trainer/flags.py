"""The flags of train_cifar.py and train_dvs.py, and the numbers they take."""

from __future__ import annotations

import argparse
from typing import NoReturn

from .errors import UserError

__all__ = [
    "METHODS",
    "Parser",
    "add_method_flags",
    "add_model_flags",
    "add_output_flags",
    "add_subset_flags",
    "add_training_flags",
    "amount",
    "between_0_and_1",
    "count",
    "natural",
    "positive",
]

LARGEST = 3.4e38  # of single precision; what is larger is infinite as soon as it is used

METHODS = ("vanilla", "shortcut", "evolutionary", "handover")


class Parser(argparse.ArgumentParser):
    """Reports a wrong flag as all other errors are reported."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists all flags)")


def count(text: str) -> int:
    """A whole number of at least 1."""
    if natural(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal() or len(text) > 9:
        expected = "a whole number of at least 0, of at most nine digits"
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return int(text)


def amount(text: str) -> float:
    """A number of at least 0 that weights and gradients can hold, too."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LARGEST:
        expected = f"a number of at least 0, and at most {LARGEST:.2g}"
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value


def positive(text: str) -> float:
    """A number above 0."""
    if not amount(text) > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return float(text)


def between_0_and_1(text: str) -> float:
    """A number above 0 and below 1."""
    value = amount(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and below 1")
    return value


def add_subset_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--train-per-class",
        type=count,
        metavar="N",
        help="train on the first N samples of each class (default: all)",
    )
    group.add_argument(
        "--test-per-class",
        type=count,
        metavar="N",
        help="test on the first N samples of each class (default: all)",
    )


def add_model_flags(parser: Parser, model: str) -> None:
    group = parser.add_argument_group("model")
    add = group.add_argument
    add(
        "--model",
        default=model,
        help="plain:N (N layers without residual connections, N at least 4); resnet18, resnet19, "
        "resnet20 or resnet34 in CIFAR style; a spiking_resnet, sew_resnet or spiking_vgg of "
        "SpikingJelly by its name there (sew_resnet18, spiking_vgg11_bn, ...); plif_mnist, "
        "plif_fashionmnist, plif_nmnist, plif_cifar10, plif_cifar10dvs, plif_dvsgesture; or "
        "package.module:factory, a function that returns your model, called with those of "
        "num_classes= and in_channels= that it takes (default: %(default)s)",
    )
    add(
        "--width",
        type=count,
        help="channels of the first stage of plain:N and resnet* (default: 128 for resnet19, else "
        "64; 32 for plain:N)",
    )
    add(
        "--norm",
        choices=("bn", "tdbn"),
        default="bn",
        help="batch norm, or threshold-dependent batch norm, in plain:N and resnet* "
        "(default: %(default)s)",
    )
    add(
        "--decay",
        type=between_0_and_1,
        default=0.25,
        help="share of its potential a LIF neuron keeps each step; the paper's is 0.5 "
        "(default: %(default)s)",
    )
    add(
        "--threshold",
        type=amount,
        default=0.5,
        help="potential at which it fires and resets to 0; the paper's is 1 (default: %(default)s)",
    )
    add(
        "--surrogate",
        choices=("triangle", "rectangle"),
        default="triangle",
        help="stand-in for the derivative of a spike: a triangle of width 2 or a rectangle of "
        "width 1, both of height 1 (default: %(default)s)",
    )


def add_method_flags(parser: Parser) -> None:
    group = parser.add_argument_group("method")
    add = group.add_argument
    add(
        "--method",
        choices=METHODS,
        default="handover",
        help="vanilla: no heads; shortcut: the paper's shortcut back-propagation, its Eq. 6; "
        "evolutionary: its evolutionary training, Eq. 10, λ falling at every step; handover: ours, "
        "λ of each head follows its loss. The flags below change them (default: %(default)s)",
    )
    add(
        "--at",
        help="where heads sit: auto, stages, all, a number of heads, or names and patterns of "
        "modules, separated by commas (default: auto; stages for the paper's methods)",
    )
    add(
        "--grid",
        type=count,
        help="heads average over each of GRID x GRID parts of the map (default: the finest of 4, "
        "2 and 1 that adds at most 10 %% to the model's parameters; 1, all of it, for the paper's "
        "methods)",
    )
    add(
        "--reads",
        choices=("spikes", "currents"),
        default="spikes",
        help="what heads see: the spikes of their layer, or the currents that go into it "
        "(default: %(default)s)",
    )
    add(
        "--price",
        type=positive,
        nargs="?",
        const=1.0,
        metavar="FACTOR",
        help="add a price on spikes to the loss, with any method: each layer fires FACTOR times "
        "its rate in the untrained network free of charge, 1 where no number is given, and less "
        "saves more (default: no price)",
    )
    add(
        "--combine",
        choices=("loss", "logits"),
        help="add the heads' losses, or their logits, to the model's (default: loss; logits for "
        "the paper's methods)",
    )
    add(
        "--schedule",
        choices=("linear", "cosine", "exponential", "step"),
        default="linear",
        help="how λ falls (default: %(default)s)",
    )
    add("--lambda-start", type=amount, help="λ at first (default: 1; 0.25 for evolutionary)")
    add("--lambda-end", type=amount, default=0.0, help="λ at last (default: %(default)s)")
    add(
        "--hold",
        type=amount,
        default=0.0,
        help="fraction of the training before λ falls (default: %(default)s)",
    )
    add(
        "--finish",
        type=amount,
        default=1.0,
        help="fraction of the training after which λ is --lambda-end (default: %(default)s)",
    )
    add(
        "--per-step",
        action="store_true",
        help="take the loss at each time step and average, as in temporal efficient training "
        "(default: off, the loss of the average over time)",
    )
    add(
        "--step-mode",
        choices=("m", "s"),
        default="m",
        help="SpikingJelly's step mode: all time steps in one call, or one a call "
        "(default: %(default)s)",
    )
    add(
        "--backend",
        choices=("auto", "torch", "cupy", "triton"),
        default="auto",
        help="what runs the neurons: auto takes the fastest that works; cupy is for SpikingJelly "
        "0.0.0.0.14, triton for 2.0.0 (default: %(default)s)",
    )


def add_training_flags(parser: Parser, epochs: int, batch_size: int) -> None:
    group = parser.add_argument_group("training")
    add = group.add_argument
    add("--epochs", type=count, default=epochs, help="(default: %(default)s)")
    add(
        "--batch-size",
        type=count,
        default=batch_size,
        help="samples a step, over all processes together (default: %(default)s)",
    )
    add(
        "--class-weights",
        choices=("equal", "balanced"),
        default="equal",
        help="balanced: samples of rare classes weigh more, so that all classes weigh the same "
        "(default: %(default)s, all samples weigh the same)",
    )
    add(
        "--accumulate",
        type=count,
        default=1,
        metavar="N",
        help="run each batch in N parts, one after the other, which takes less memory; batch norm "
        "then sees a part (default: %(default)s)",
    )
    add("--optimizer", choices=("sgd", "adamw"), default="sgd", help="(default: %(default)s)")
    add(
        "--lr",
        type=amount,
        help="learning rate, which falls to 0 by a cosine (default: 0.1 for sgd, 0.001 for adamw)",
    )
    add("--momentum", type=amount, default=0.9, help="of sgd (default: %(default)s)")
    add("--weight-decay", type=amount, help="(default: 0.0001 for sgd, 0.01 for adamw)")
    add(
        "--clip-grad",
        type=amount,
        default=0.0,
        metavar="NORM",
        help="scale the gradient of all weights together down to this norm, against gradients that "
        "explode, as they do in deep networks with --surrogate rectangle; 0 does not "
        "(default: 0)",
    )
    add(
        "--skip-nonfinite",
        action="store_true",
        help="go on without the steps whose loss or gradient is not finite, and count them "
        "(default: off, end at the first one)",
    )
    add(
        "--warmup-epochs",
        type=natural,
        default=0,
        help="epochs over which the learning rate rises from 0 first (default: %(default)s)",
    )
    add(
        "--seed",
        type=natural,
        default=0,
        help="seed of everything random; a CPU run is bit-reproducible (default: %(default)s)",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: CUDA where there is a GPU (default: %(default)s)",
    )
    add(
        "--amp",
        choices=("off", "bf16", "fp16"),
        default="off",
        help="automatic mixed precision; fp16 scales the loss, and leaves out steps that overflow "
        "(default: %(default)s)",
    )
    add(
        "--channels-last",
        action="store_true",
        help="keep weights and maps in channels-last layout (default: off)",
    )
    add("--compile", action="store_true", help="torch.compile the model (default: off)")
    add(
        "--fsdp",
        action="store_true",
        help="let each process that torchrun starts hold a part of the weights, gradients and "
        "optimizer's state only (FSDP2), for models that do not fit (default: off)",
    )
    add(
        "--workers",
        type=natural,
        default=2,
        help="processes that load data; has no influence on results (default: %(default)s)",
    )


def add_output_flags(parser: Parser) -> None:
    group = parser.add_argument_group("output")
    add = group.add_argument
    add(
        "--out",
        help="folder of the run (default: in runs/, named after data set, model, method, seed and "
        "every other setting that is not the default)",
    )
    add(
        "--resume",
        metavar="RUN",
        help="go on with the run in this folder, or from this checkpoint file, with its settings, "
        "of which --epochs, --lr and others that change nothing of the past may change; auto goes "
        "on where --out holds a run and starts one where not, for jobs that are started again "
        "(default: start anew)",
    )
    add(
        "--checkpoint-every",
        type=natural,
        default=0,
        metavar="STEPS",
        help="also write last.pt every so many steps within an epoch (default: %(default)s: after "
        "each epoch only)",
    )
    add(
        "--gradients-every",
        type=natural,
        default=0,
        metavar="EPOCHS",
        help="measure the gradient flow through the layers every so many epochs "
        "(default: %(default)s: never)",
    )
    add(
        "--load-only",
        action="store_true",
        help="go through an epoch of training data without training, and tell how many images a "
        "second come: more than a training shows, or loading holds it up (default: off)",
    )
    add("--debug", action="store_true", help="show the traceback of an error (default: off)")
