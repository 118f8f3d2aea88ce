"""Which trainings the study of vanishing gradients is made of, the long ones first."""

from __future__ import annotations

import argparse

from analysis.gradient_vanishing.run import METHODS, Run, middle

__all__ = ["DEPTHS", "NETS", "SURROGATES", "plan"]

DEPTHS = (6, 18, 30, 48)
NETS = ("plain", "resnet")
SURROGATES = ("atan", "sigmoid", "rect")


def plan(args: argparse.Namespace) -> list[Run]:
    """The runs that the flags ask for, the long ones first.

    Both networks at all depths with the first surrogate; the others in plain networks, at the
    depth of the closer looks and in the shallowest. Further seeds, and data other than digits, for
    the case that matters most: plain, the depth of the closer looks, the first surrogate.
    """
    usual = args.surrogates[0]
    depth = middle(args.depths)
    grid = []
    for data in args.data:
        if data != "digits":
            grid.append((data, "plain", depth, usual, args.seeds[0], min(args.epochs, 4)))
            continue
        for net in args.nets:
            for size in args.depths:
                for shape in args.surrogates:
                    if shape == usual or (net == "plain" and size in (depth, min(args.depths))):
                        grid.append((data, net, size, shape, args.seeds[0], args.epochs))
        grid += [(data, "plain", depth, usual, seed, args.epochs) for seed in args.seeds[1:]]
    runs = [
        Run(data, net, size, shape, method, seed, epochs)
        for data, net, size, shape, seed, epochs in grid
        for method in METHODS
    ]
    return sorted(runs, key=lambda run: -run.work)
