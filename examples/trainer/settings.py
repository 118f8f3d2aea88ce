"""From the command line, and the run that is resumed, to the settings of a training."""

from __future__ import annotations

import argparse
from typing import Any

from . import checkpoint
from .errors import UserError
from .flags import Parser

__all__ = ["parse"]

# Settings that a resumed run may change; all others must be those it was started with.
FREE_ON_RESUME = (
    "resume", "device", "workers", "checkpoint_every", "gradients_every", "data_dir", "debug",
)  # fmt: skip

# Flags without effect on a method.
UNUSED_FLAGS: dict[str, tuple[str, ...]] = {
    "vanilla": ("at", "combine", "schedule", "lambda_start", "lambda_end", "hold", "finish"),
    "shortcut": ("schedule", "lambda_end", "hold", "finish"),
    "evolutionary": (),
    "handover": ("combine", "schedule", "lambda_end", "hold", "finish"),
}


def parse(parser: Parser, argv: list[str]) -> argparse.Namespace:
    """Read the command line; with --resume, take what is not given there from the checkpoint."""
    defaults = vars(parser.parse_args([]))
    unset = object()
    namespace = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(defaults, unset)))
    given = {name: value for name, value in vars(namespace).items() if value is not unset}
    if given.get("resume"):
        saved = checkpoint.settings(given["resume"], parser.prog)
        refuse_changes(saved, given, given["resume"])
        # A run may have been moved since: it goes on where its checkpoint lies.
        defaults |= saved | {"out": str(checkpoint.find(given["resume"]).parent)}
    args = argparse.Namespace(**defaults | given)
    if not given.get("resume"):
        refuse_contradictions(args, given)
        fill_in(args)
    return args


def refuse_changes(saved: dict[str, Any], given: dict[str, Any], path: str) -> None:
    if "out" in given:
        raise UserError("--out contradicts --resume: a resumed run goes on in its own folder")
    for name, value in given.items():
        if name not in FREE_ON_RESUME and saved.get(name) != value:
            raise UserError(
                f"--{name.replace('_', '-')} {value} contradicts the run in {path}, which was "
                f"started with {saved.get(name)}: leave the flag out, or start a new run"
            )


def refuse_contradictions(args: argparse.Namespace, given: dict[str, Any]) -> None:
    for name in UNUSED_FLAGS[args.method]:
        if name in given:
            raise UserError(
                f"--{name.replace('_', '-')} has no effect with --method {args.method}: leave it "
                "out, or choose --method " + ("shortcut" if name == "at" else "evolutionary")
            )
    if args.optimizer == "adamw" and "momentum" in given:
        raise UserError("--momentum is for --optimizer sgd: leave it out with adamw")
    if args.norm == "tdbn" and args.step_mode == "s":
        raise UserError("--norm tdbn normalizes over time: it needs --step-mode m")
    if args.warmup_epochs >= args.epochs:
        raise UserError(f"--warmup-epochs {args.warmup_epochs} leaves none of {args.epochs} epochs")
    if args.model not in ("resnet18", "resnet19", "resnet20") and not args.model.startswith(
        "plain:"
    ):
        refused = ["norm", "width"]
        if ":" in args.model:
            refused += ["decay", "threshold", "surrogate"]
        for name in refused:
            if name in given:
                raise UserError(f"--{name} has no effect on --model {args.model}: leave it out")


def fill_in(args: argparse.Namespace) -> None:
    """Settle the defaults that depend on other flags."""
    sgd = args.optimizer == "sgd"
    if args.lr is None:
        args.lr = 0.1 if sgd else 1e-3
    if args.weight_decay is None:
        args.weight_decay = 1e-4 if sgd else 1e-2
    if args.finish is None:
        # Heads added to the logits must be out of use before they are removed.
        args.finish = 0.9 if args.combine == "logits" else 1.0
    if args.out is None:
        model = args.model.replace(":", "-")
        args.out = f"runs/{args.dataset}-{model}-{args.method}-seed{args.seed}"
