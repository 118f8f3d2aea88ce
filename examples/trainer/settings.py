"""From the command line, and the run that is resumed, to the settings of a training."""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path
from typing import Any

from . import checkpoint
from .errors import UserError, one_line
from .flags import Parser

__all__ = ["parse"]

# What a resumed run may change without a word, as no number depends on it,
FREE = (
    "resume", "device", "fsdp", "workers", "checkpoint_every", "gradients_every", "data_dir",
    "load_only", "debug",
)  # fmt: skip
# what it may change from here on, which is noted in config.json,
CHANGEABLE = (
    "epochs", "lr", "weight_decay", "momentum", "clip_grad", "skip_nonfinite", "amp", "compile",
    "channels_last", "backend", "accumulate",
)  # fmt: skip
# and why it may not change the others.
FIXED = {
    "the weights would mean something else": (
        "model", "width", "norm", "decay", "threshold", "surrogate", "step_mode",
    ),
    "the heads and their λ belong to what was trained so far": (
        "method", "at", "grid", "reads", "combine", "schedule", "lambda_start", "lambda_end",
        "hold", "finish", "per_step",
    ),
    "its targets are those of the network before it was trained": ("price",),
    "the state of the optimizer would not fit": ("optimizer",),
    "the order of the batches is theirs from the first on": ("seed", "batch_size"),
    "the learning rate has risen already": ("warmup_epochs",),
}  # fmt: skip
AUTO = "auto"
OF_DATA = "accuracies before and after could not be compared"

# Flags without effect on a method.
UNUSED_FLAGS: dict[str, tuple[str, ...]] = {
    "vanilla": (
        "at", "grid", "reads", "combine", "schedule", "lambda_start", "lambda_end", "hold",
        "finish",
    ),
    "shortcut": ("schedule", "lambda_end", "hold", "finish"),
    "evolutionary": (),
    "handover": ("combine", "schedule", "lambda_end", "hold", "finish"),
}  # fmt: skip

# What holds where nothing is given. Heads and λ of the paper's methods are the paper's.
OURS = {"at": "auto", "combine": "loss", "lambda_start": 1.0}
PAPERS = {"at": "stages", "grid": 1, "combine": "logits", "lambda_start": 1.0}
BY_METHOD: dict[str, dict[str, Any]] = {
    "vanilla": OURS,
    "shortcut": PAPERS,
    "evolutionary": {**PAPERS, "lambda_start": 0.25},
    "handover": OURS,
}


def parse(parser: Parser, argv: list[str]) -> argparse.Namespace:
    """Read the command line; with --resume, take what is not given there from the checkpoint.

    ``changed`` of what is returned holds the settings that a resumed run had, and has from now on.
    """
    defaults = vars(parser.parse_args([]))
    unset = object()
    namespace = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(defaults, unset)))
    given = {name: value for name, value in vars(namespace).items() if value is not unset}
    if given.get("resume") not in (None, AUTO):
        return resumed(parser, given)
    args = argparse.Namespace(**defaults | given, changed={})
    refuse_contradictions(args, given)
    fill_in(args, defaults)
    if args.resume == AUTO:
        args.resume = None
        if (Path(args.out) / checkpoint.LAST).exists():
            given.pop("out", None)
            return resumed(parser, given | {"resume": args.out})
    return args


def resumed(parser: Parser, given: dict[str, Any]) -> argparse.Namespace:
    path = checkpoint.find(given["resume"])
    state = checkpoint.load(path)
    if state["script"] != parser.prog:
        raise UserError(f"{path} was written by {state['script']}: resume it with that")
    saved = checked(parser, state["settings"], path)
    refuse_foreign_code(saved, given, path)
    refuse_changes(saved, given, path)
    changed = {
        name: (saved[name], value)
        for name, value in given.items()
        if name in CHANGEABLE and saved[name] != value
    }
    # A run may have been moved since: it goes on where its checkpoint lies.
    args = argparse.Namespace(**saved | {"out": str(path.parent)} | given, changed=changed)
    done = state["position"].get("epoch")
    if "epochs" in changed and isinstance(done, int) and args.epochs < done:
        raise UserError(f"--epochs {args.epochs}: the run in {path} has {done} epochs already")
    if changed and args.epochs == done:
        flag = next(iter(changed)).replace("_", "-")
        raise UserError(
            f"--{flag}: the run in {path} has all of its {done} epochs, so that nothing would "
            "change: add more by --epochs"
        )
    refuse_contradictions(args, changed)
    return args


def checked(parser: Parser, saved: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings in a checkpoint, if they are such as the command line may give."""
    defaults = vars(parser.parse_args([]))
    transient = {"resume": None, "debug": False, "load_only": False}
    argv = []
    try:
        if saved.keys() != defaults.keys() - transient.keys():
            differing = sorted(map(str, saved.keys() ^ (defaults.keys() - transient.keys())))
            raise UserError(f"settings more or less: {', '.join(differing)}")
        for name, value in saved.items():
            flag = f"--{name.replace('_', '-')}"
            if isinstance(defaults[name], bool):
                argv += [flag] if value is True else []
            elif value is not None:
                argv.append(f"{flag}={value}")
        read = vars(parser.parse_args(argv))
        for name, value in saved.items():
            if read[name] != value or type(read[name]) is not type(value):
                raise UserError(f"{value!r} for --{name.replace('_', '-')}")
    except UserError as error:
        raise UserError(
            f"{path} holds settings that this version does not know ({one_line(error)}): resume "
            "it with the version that wrote it"
        ) from error
    return saved | transient


def refuse_foreign_code(saved: dict[str, Any], given: dict[str, Any], path: Path) -> None:
    """A checkpoint is data, and must not choose the code that runs."""
    model = saved["model"]
    if ":" in model and not model.startswith("plain:") and "model" not in given:
        raise UserError(
            f"{path} asks to run the code {model} for its model, which a file may not: if it is "
            f"yours, say so by --resume {given['resume']} --model {model}"
        )


def refuse_changes(saved: dict[str, Any], given: dict[str, Any], path: Path) -> None:
    if "out" in given:
        raise UserError("--out contradicts --resume: a resumed run goes on in its own folder")
    for name, value in given.items():
        if name not in FREE + CHANGEABLE and saved[name] != value:
            why = next((why for why, names in FIXED.items() if name in names), OF_DATA)
            raise UserError(
                f"--{name.replace('_', '-')} {value} contradicts the run in {path}, which was "
                f"started with {saved[name]} ({why}): leave the flag out, or start a new run"
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
    for flag, is_set in {
        "--channels-last": args.channels_last,
        "--amp fp16": args.amp == "fp16",
        "--gradients-every": args.gradients_every > 0,
    }.items():
        if args.fsdp and is_set:
            raise UserError(f"--fsdp does not go with {flag}: leave one of the two out")
    if args.price is not None and args.compile:
        raise UserError(
            "--price counts spikes by hooks, which --compile leaves out: leave one of the two out"
        )
    if args.norm == "tdbn" and args.step_mode == "s":
        raise UserError("--norm tdbn normalizes over time: it needs --step-mode m")
    if args.warmup_epochs >= args.epochs:
        raise UserError(f"--warmup-epochs {args.warmup_epochs} leaves none of {args.epochs} epochs")
    if args.model not in (
        "resnet18",
        "resnet19",
        "resnet20",
        "resnet34",
    ) and not args.model.startswith("plain:"):
        refused = ["norm", "width"]
        if ":" in args.model:
            refused += ["decay", "threshold", "surrogate"]
        for name in refused:
            if name in given:
                raise UserError(f"--{name} has no effect on --model {args.model}: leave it out")


def fill_in(args: argparse.Namespace, defaults: dict[str, Any]) -> None:
    """Settle the defaults that depend on other flags."""
    if args.out is None:
        args.out = default_folder(args, defaults)
    sgd = args.optimizer == "sgd"
    if args.lr is None:
        args.lr = 0.1 if sgd else 1e-3
    if args.weight_decay is None:
        args.weight_decay = 1e-4 if sgd else 1e-2
    for name, value in BY_METHOD[args.method].items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def default_folder(args: argparse.Namespace, defaults: dict[str, Any]) -> str:
    """A name that tells every setting which is not the default: runs of a sweep do not meet."""
    named = ("dataset", "model", "method", "seed", "out", "changed")
    others = [
        f"{name.replace('_', '-')}{'' if value is True else f'-{value}'}"
        for name, value in vars(args).items()
        if name not in (*named, *FREE) and value != defaults[name]
    ]
    if args.data_dir != defaults["data_dir"]:
        others.append(f"data-dir-{args.data_dir}")
    parts = [args.dataset, args.model, args.method, f"seed{args.seed}", *others]
    name = re.sub(r"[^\w.,+-]+", "-", "-".join(parts), flags=re.ASCII)
    if name != "-".join(parts).replace(":", "-") or len(name) > 120:
        # Shortened or spelt otherwise, it might be that of another run, too.
        digest = hashlib.sha256("-".join(parts).encode(errors="surrogateescape")).hexdigest()
        name = f"{name[:110]}-{digest[:8]}"
    return f"runs/{name}"
