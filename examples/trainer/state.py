"""What a checkpoint of a run holds, and how the run is put back to where it was written."""

from __future__ import annotations

from typing import Any

import torch

from sj_shortcut import remove_price, remove_shortcuts

from . import checkpoint, reports
from .building import Position, Run
from .errors import UserError, one_line
from .finite import check_weights
from .folder import write_atomically
from .sharding import spread, whole

__all__ = ["finish", "restore", "save"]


def save(run: Run, best: bool = False) -> None:
    """Write last.pt, from process 0, with what all processes have to say."""
    check_weights(run)
    weights, optimizer = whole(run.model.state_dict()), whole(run.optimizer.state_dict())
    rng = run.world.gather(checkpoint.rng_state())
    schedule = None
    if run.has_heads:
        schedule = checkpoint.merge(run.world.gather(run.criterion.schedule.state_dict()))
    state = {
        "script": run.script,
        "settings": run.settings,
        "changes": run.changes,
        "data": {"classes": run.data.classes, "train": len(run.data.train)},
        "position": vars(run.position),
        "history": run.history,
        "model": weights,
        "optimizer": optimizer,
        "lr": {k: v for k, v in run.lr.state_dict().items() if k != "lr_lambdas"},
        "schedule": schedule,
        "price": None if run.price is None else run.price.get_extra_state(),
        "scaler": run.scaler.state_dict(),
        "rng": rng,
    }
    run.world.alone(lambda: checkpoint.save(run.folder, state, best))
    run.saved_at = (run.position.epoch, run.position.batch)


def restore(run: Run) -> None:
    """Put everything back to where the checkpoint was written, but for what is to change."""
    path = checkpoint.find(run.args.resume)
    state = checkpoint.load(path)
    try:
        refuse_other_data(run, state, path)
        put_back(run, state)
    except UserError:
        raise
    except Exception as error:  # whatever does not fit into model, optimizer or generators
        raise UserError(f"{path} does not fit this run ({one_line(error)})") from error
    if run.args.changed:
        apply_changes(run)
        save(run)


def refuse_other_data(run: Run, state: dict[str, Any], path: Any) -> None:
    if state["data"] != {"classes": run.data.classes, "train": len(run.data.train)}:
        raise UserError(
            f"{path} was trained on {state['data']['train']} samples of "
            f"{len(state['data']['classes'])} classes, but {run.args.data_dir} now has "
            f"{len(run.data.train)} of {len(run.data.classes)}, or others: restore the data"
        )


def put_back(run: Run, state: dict[str, Any]) -> None:
    own = run.model.state_dict()
    weights = {k: spread(v, own[k]) if k in own else v for k, v in state["model"].items()}
    run.model.load_state_dict(weights)
    run.optimizer.load_state_dict(optimizer_state(run, state["optimizer"]))
    run.lr.load_state_dict({**state["lr"], "lr_lambdas": [None]})
    if run.has_heads:
        schedule = checkpoint.share(state["schedule"], run.world.rank)
        if "epochs" in schedule:  # the length of the training may have changed
            schedule = {**schedule, "epochs": run.args.epochs}
        run.criterion.schedule.load_state_dict(schedule)
    if run.price is not None:
        run.price.set_extra_state(state["price"])
    run.scaler.load_state_dict(state["scaler"])
    run.position = Position(**state["position"])
    run.saved_at = (run.position.epoch, run.position.batch)
    run.history = state["history"]
    run.changes = state["changes"]
    rng = state["rng"]
    if run.world.rank < len(rng):
        checkpoint.set_rng_state(rng[run.world.rank])
    if run.world.rank == 0 and len(rng) != run.world.size:
        reports.say(
            f"note: started with {len(rng)} processes, going on with {run.world.size}: the same "
            "global batches, so the same results up to rounding, but for dropout"
        )


def optimizer_state(run: Run, state: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's state in a checkpoint; of sharded weights, this process's part."""
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    moments = {
        i: {name: spread(value, parameters[i]) for name, value in moments.items()}
        for i, moments in state["state"].items()
    }
    return {**state, "state": moments}


def apply_changes(run: Run) -> None:
    """Let what the command line changes hold from here on, and note it."""
    args, at = run.args, run.position
    for group in run.optimizer.param_groups:
        group["weight_decay"] = args.weight_decay
        if "momentum" in group:
            group["momentum"] = args.momentum
        group["initial_lr"] = args.lr
        group["lr"] = args.lr * run.lr.lr_lambdas[0](run.lr.last_epoch)
    run.lr.base_lrs = [args.lr]
    changed = {name: list(values) for name, values in args.changed.items()}
    run.changes = [*run.changes, {"epoch": at.epoch + 1, "batch": at.batch, **changed}]
    if run.world.rank == 0:
        what = ", ".join(f"--{n.replace('_', '-')} {a} -> {b}" for n, (a, b) in changed.items())
        reports.say(f"changed from epoch {at.epoch + 1}, step {at.batch + 1} on: {what}")
        if "epochs" in changed:
            reports.say(
                f"learning rate and λ go on as in a training of {args.epochs} epochs, the former "
                f"with {run.optimizer.param_groups[0]['lr']:.4g}"
            )


def finish(run: Run) -> None:
    """Take the heads out and write the plain model's weights."""
    if run.has_heads:
        remove_shortcuts(run.model)  # and with them the price
    elif run.price is not None:
        remove_price(run.model)
    weights = {k: v.cpu() for k, v in whole(run.model.state_dict()).items()}
    path = run.folder / "model.pt"
    remedy = f"make room or mend the folder, then --resume {run.folder}"
    run.world.alone(lambda: write_atomically(path, lambda file: torch.save(weights, file), remedy))
