"""Train a deep plain spiking network on small digits: once vanilla, once with shortcuts.

The network has no residual connections. Both trainings start from the same weights and see the
same images in the same order. The shortcut heads are removed after training, so that both test
accuracies are those of the same network. The images come with scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
from tqdm import tqdm

from sj_shortcut import ShortcutLoss, remove_shortcuts, wrap_with_shortcuts

__all__ = ["main"]

CLASSES = 10
WIDTHS = (16, 32, 64)
TIME_STEPS = 2
BATCH_SIZE = 32
# Colours that colour-blind eyes tell apart, and markers for print without colour.
STYLES = {
    "vanilla": {"color": "0.45", "marker": "s"},
    "shortcuts": {"color": "#0072B2", "marker": "o"},
}


def main() -> None:
    args = read_arguments()
    torch.set_num_threads(1)  # small tensors gain little from more
    data = load_data()
    results = {
        "vanilla": train(data, args, with_shortcuts=False),
        "shortcuts": train(data, args, with_shortcuts=True),
    }
    print(f"\n{args.depth} convolutional layers, {args.epochs} epochs, seed {args.seed}:\n")
    print(make_table(results).to_string())
    save(draw(results), args.out)
    print(f"\nCurves: {args.out}")


# Training: what the shortcuts add to an ordinary SpikingJelly script is numbered.


Criterion = nn.CrossEntropyLoss | ShortcutLoss


def prepare(args: argparse.Namespace, with_shortcuts: bool) -> tuple[nn.Module, Criterion]:
    """The network, which for one seed has the same weights either way, and its loss."""
    torch.manual_seed(args.seed)
    model: nn.Module = plain_network(args.depth)
    criterion: Criterion = nn.CrossEntropyLoss()
    if with_shortcuts:
        model = wrap_with_shortcuts(model, at=args.at)  # 1
        criterion = ShortcutLoss(model, criterion)  # 2
    return model, criterion


def train(data: Data, args: argparse.Namespace, with_shortcuts: bool) -> Result:
    model, criterion = prepare(args, with_shortcuts)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    learning_rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    result = Result()
    name = f"{'shortcuts' if with_shortcuts else 'vanilla':9}"
    progress = tqdm(range(args.epochs), name, disable=None)  # no bar where the output is a file
    for epoch in progress:
        began = time.perf_counter()
        norms = train_epoch(model, criterion, optimizer, batches(data, args.seed + epoch))
        result.seconds.append(time.perf_counter() - began)
        learning_rate.step()
        if isinstance(criterion, ShortcutLoss):
            criterion.schedule.step()  # 3
        result.gradient_norms.append(norms)
        result.test_accuracy.append(measure_accuracy(model, data))
        accuracy = f"test accuracy {result.test_accuracy[-1]:.1%}"
        progress.set_postfix_str(accuracy)
        if progress.disable:
            print(f"{name}  epoch {epoch + 1}/{args.epochs}  {accuracy}", flush=True)
    if with_shortcuts:
        model = remove_shortcuts(model)
    result.final_accuracy = measure_accuracy(model, data)
    return result


def train_epoch(
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Tensor, Tensor]],
) -> list[float]:
    """Train on the batches; return each layer's gradient norm, averaged over them."""
    norms = []
    for x, y in batches:
        loss = criterion(model(x).mean(0), y)
        optimizer.zero_grad()
        loss.backward()
        norms.append(gradient_norms(model))
        optimizer.step()
        functional.reset_net(model)
    return torch.stack(norms).mean(0).tolist()


def gradient_norms(model: nn.Module) -> Tensor:
    """L2 norm of the gradient of each convolution's weights, from the first layer to the last."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    gradients = [convolution.weight.grad for convolution in convolutions]
    return torch.stack([gradient.norm() for gradient in gradients if gradient is not None])


@torch.no_grad()
def measure_accuracy(model: nn.Module, data: Data) -> float:
    model.eval()
    predicted = model(over_time(data.x_test)).mean(0).argmax(1)
    functional.reset_net(model)
    model.train()
    share: Tensor = (predicted == data.y_test).float().mean()
    return share.item()


@dataclass
class Result:
    """One training: the lists hold one entry an epoch."""

    seconds: list[float] = field(default_factory=list)
    gradient_norms: list[list[float]] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    final_accuracy: float = float("nan")


# The network and the data


def plain_network(depth: int) -> nn.Sequential:
    """Convolutions one after another, in three stages of width and resolution."""
    layers: list[nn.Module] = []
    channels = 1
    for i in range(depth):
        width = WIDTHS[i * len(WIDTHS) // depth]
        stride = 2 if i > 0 and width != channels else 1
        layers += [
            layer.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            layer.BatchNorm2d(width),
            neuron.LIFNode(decay_input=False, surrogate_function=surrogate.ATan()),
        ]
        channels = width
    layers += [layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(channels, CLASSES)]
    model = nn.Sequential(*layers)
    functional.set_step_mode(model, "m")
    return model


class Data(NamedTuple):
    x_train: Tensor
    x_test: Tensor
    y_train: Tensor
    y_test: Tensor


def load_data() -> Data:
    """1,797 images of 8x8 pixels; a fifth of each class, always the same, is for testing."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / digits.images.max()
    labels = torch.tensor(digits.target)
    return Data(*train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0))


def batches(data: Data, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The training images in an order that depends on nothing but the seed."""
    order = torch.randperm(len(data.y_train), generator=torch.Generator().manual_seed(seed))
    for chosen in order.split(BATCH_SIZE):
        yield over_time(data.x_train[chosen]), data.y_train[chosen]


def over_time(images: Tensor) -> Tensor:
    """[N, C, H, W] shown at every time step: [T, N, C, H, W]."""
    return images.expand(TIME_STEPS, *images.shape)


# What is shown at the end


def make_table(results: dict[str, Result]) -> pd.DataFrame:
    rows = {
        name: {
            "test accuracy": f"{result.final_accuracy:.1%}",
            "gradient norm of layer 1": f"{result.gradient_norms[0][0]:.1e}",
            "seconds an epoch": f"{pd.Series(result.seconds).median():.2f}",
        }
        for name, result in results.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def draw(results: dict[str, Result]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, result in results.items():
        epochs = range(1, len(result.test_accuracy) + 1)
        left.plot(epochs, result.test_accuracy, label=name, **STYLES[name])
        norms = result.gradient_norms[0]
        right.plot(range(1, len(norms) + 1), norms, label=name, **STYLES[name])
    left.axhline(1 / CLASSES, color="0.4", linestyle=":", label="chance", zorder=0)
    left.set(title="Test accuracy", xlabel="epoch", ylim=(0, 1))
    left.yaxis.set_major_formatter(PercentFormatter(1))
    left.legend(frameon=False)
    right.set(title="Gradient norm in the first epoch", xlabel="layer, from first to last")
    right.set_yscale("log")
    for axes in (left, right):
        axes.set_xlim(left=0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    return figure


# The command line


def read_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        "quickstart.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--epochs", type=at_least(1), default=15, metavar="N", help="(default: %(default)s)")
    # fmt: off
    add("--depth", type=at_least(6), default=30, metavar="N",
        help="convolutional layers, 6 or more (default: %(default)s)")
    add("--at", default="auto", metavar="WHERE",
        help='where heads sit: "auto", "stages", "all", or how many of them, evenly spaced '
        "(default: %(default)s)")
    add("--seed", type=at_least(0), default=0, metavar="N",
        help="of weights and data order (default: %(default)s)")
    add("--out", type=Path, default=Path("runs/quickstart.png"), metavar="FILE",
        help="where to save the curves, a PNG (default: %(default)s)")
    # fmt: on
    args = parser.parse_args(argv)
    args.at = int(args.at) if args.at.isdecimal() else args.at
    try:
        wrap_with_shortcuts(plain_network(args.depth), at=args.at)
    except ValueError as error:
        parser.error(f"argument --at: {error}")
    try:
        check_writable(args.out)
    except OSError as error:
        parser.error(f"argument --out: {error}")
    return args


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help lists all options)\n")


def at_least(minimum: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number."""

    def whole_number(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            expected = f"a whole number of at least {minimum}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
        return int(text)

    return whole_number


def check_writable(path: Path) -> None:
    """Fail before the training rather than after it."""
    if path.suffix != ".png":
        raise OSError(f"'{path}' does not end in .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise OSError(f"'{path}' is a folder")
    tempfile.TemporaryFile(dir=path.parent).close()


def save(figure: Figure, path: Path) -> None:
    """Put the figure in its place when it is whole: no half of one, whatever happens."""
    half = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(half, format="png", dpi=150)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
