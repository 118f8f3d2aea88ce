"""Train a deep spiking network on event data: N-MNIST, CIFAR10-DVS, DVS128 Gesture, N-Caltech101.

SpikingJelly's own data set classes read the recordings. CIFAR10-DVS downloads by itself; of the
others, put the archives into DATA_DIR/download (an error says which, and where to get them).

    python examples/train_dvs.py --dataset n-mnist --data-dir data/nmnist --frames 6
    python examples/train_dvs.py --dataset cifar10-dvs --data-dir data/cifar10dvs --frames 10 \\
        --resize 48 --flip --roll 5
    torchrun --nproc-per-node 4 examples/train_dvs.py --dataset dvs128-gesture \\
        --data-dir data/gesture --frames 16 --model plif_dvsgesture
"""

from __future__ import annotations

import argparse

from trainer import errors, events, flags, settings, training

__all__ = ["build_parser", "main"]


def main(argv: list[str]) -> int:
    return training.train(settings.parse(build_parser(), argv), "train_dvs.py", events.load)


def build_parser() -> flags.Parser:
    parser = flags.Parser(
        prog="train_dvs.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("data")
    add = group.add_argument
    add(
        "--dataset",
        choices=tuple(events.DATASETS),
        default="n-mnist",
        help="(default: %(default)s)",
    )
    add(
        "--data-dir",
        default="data/events",
        help="folder of this data set, in which SpikingJelly also keeps what it converts "
        "(default: %(default)s)",
    )
    flags.add_subset_flags(group)
    add(
        "--frames",
        "--T",
        dest="T",
        metavar="T",
        type=flags.count,
        default=10,
        help="frames a recording is made into, which are the time steps (default: %(default)s)",
    )
    add(
        "--split-by",
        choices=("number", "time"),
        default="number",
        help="let each frame have equally many events, or last equally long (default: %(default)s)",
    )
    add(
        "--resize",
        type=flags.natural,
        default=0,
        metavar="PIXELS",
        help="resize frames to this (default: %(default)s: as they are)",
    )
    add(
        "--flip",
        action="store_true",
        help="flip half of the training recordings left to right, which suits objects but not "
        "digits or gestures (default: off)",
    )
    add(
        "--roll",
        type=flags.natural,
        default=0,
        metavar="PIXELS",
        help="shift training recordings by up to this much, around the edges "
        "(default: %(default)s: not at all)",
    )
    flags.add_model_flags(parser, model="resnet20")
    flags.add_method_flags(parser)
    flags.add_training_flags(parser, epochs=100, batch_size=32)
    flags.add_output_flags(parser)
    return parser


if __name__ == "__main__":
    errors.run(main)
