"""Train a deep spiking network on still images: CIFAR-10 and -100, Fashion-MNIST, your own, digits.

Without a download, in a minute on a laptop:

    python examples/train_cifar.py --dataset digits --model plain:18 --width 8 --epochs 10
    python examples/train_cifar.py --dataset digits --model plain:18 --width 8 --epochs 10 \\
        --method vanilla

On one GPU, or on four:

    python examples/train_cifar.py --model resnet20 --crop --flip --autoaugment --cutout 16
    torchrun --nproc-per-node 4 examples/train_cifar.py --model resnet20 --crop --flip
"""

from __future__ import annotations

import argparse

from trainer import errors, flags, images, settings, training

__all__ = ["build_parser", "main"]


def main(argv: list[str]) -> int:
    return training.train(settings.parse(build_parser(), argv), "train_cifar.py", images.load)


def build_parser() -> flags.Parser:
    parser = flags.Parser(
        prog="train_cifar.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("data")
    add = group.add_argument
    add(
        "--dataset",
        choices=("cifar10", "cifar100", "fashion-mnist", "folder", "digits"),
        default="cifar10",
        help="downloaded by torchvision where absent, but for: folder, which is --data-dir with "
        "train/ and test/ of class folders, and digits, which come with scikit-learn "
        "(default: %(default)s)",
    )
    add("--data-dir", default="data", help="where the data is, or goes (default: %(default)s)")
    flags.add_subset_flags(group)
    add(
        "--image-size",
        type=flags.count,
        metavar="PIXELS",
        help="resize images to this (default: 32 with --dataset folder, else as they are)",
    )
    add(
        "--crop",
        action="store_true",
        help="crop training images at random after padding them by an eighth (default: off)",
    )
    add(
        "--random-resized-crop",
        action="store_true",
        help="train on random parts of images, 8 to 100 %% of them, and test on the middle, as is "
        "usual on ImageNet (default: off)",
    )
    add("--flip", action="store_true", help="flip half of them left to right (default: off)")
    add(
        "--autoaugment",
        action="store_true",
        help="apply the AutoAugment policy for CIFAR-10 (default: off)",
    )
    add(
        "--cutout",
        type=flags.natural,
        default=0,
        metavar="PIXELS",
        help="blank a random square of this side; 16 is usual on CIFAR (default: %(default)s: "
        "none)",
    )
    add("--T", type=flags.count, default=4, help="time steps (default: %(default)s)")
    flags.add_model_flags(parser, model="resnet20")
    flags.add_method_flags(parser)
    flags.add_training_flags(parser, epochs=100, batch_size=128)
    flags.add_output_flags(parser)
    return parser


if __name__ == "__main__":
    errors.run(main)
