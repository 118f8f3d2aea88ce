"""What the heads of a model gave in its forward passes, one :class:`Record` each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from sj_shortcut.places.layout import Layout
from sj_shortcut.shortcuts.marks import mark

__all__ = ["Forwards", "Record", "in_time"]

# Sequences of compiled code to keep for losses that are taken after a reset.
_FINISHED = 4


class Record:
    """The logits of one forward pass of the model.

    Attributes:
        forwards: Of which model.
        logits: For each head that ran, its logits call by call: ``[N, K]``, per step ``[T, N, K]``.
        steps: Time steps in each of these calls.
        waiting: Heads that are still to be computed, each with its averages: when the forward ends,
            or, where it is one time step of several, all steps at once when someone asks.
        together: Logits computed for this record and those before it, with their numbers.
        averages: Of each head computed so, what it was given, call by call: its gradients go back
            from here alone, as the logits of all heads come from one node of the graph.
        tapped: The features and their versions, until the forward ends.
        blocked: Points reached without gradients while the model had them.
        asleep: Points in eval mode while the model trained.
        fixed: Points whose features need no gradient: nothing below them learns.
        unseen: Points whose axes are not known, with the shapes of their outputs.
        used: Whether a loss has used the logits.
        spent: Whether a backward pass has gone through the output.
        single: Whether every head ran for one time step.
        graded: Whether the forward ran with gradients.
        read: Whether ``shortcut_logits`` has read it.
        number: Place in the order of all forwards.
        before: In compiled code the record before this one, of a single time step.
        trace: Which compiled code it is of; ``joined`` that in which it hangs on the output, as the
            model may be cut in pieces.
        end: Of the model's output in compiled code, a number: both come from one node of the graph,
            by which the output is known where the model is cut in pieces, as the compiler lets go
            of inputs without a gradient, such as the logits of other pieces. Not the output itself:
            what adds to it in place would give it another node.
        shared: Whether the code was traced with another forward before it, which has that node too.
        several: The traces in which more than one forward, of any models, ends.
    """

    several: ClassVar[set[str]] = set()

    used, spent, read = mark("_used"), mark("_spent"), mark("_read")

    def __init__(self, forwards: Forwards, graded: bool) -> None:
        self.forwards = forwards
        self.graded = graded
        self.logits: dict[str, list[Tensor]] = {}
        self.steps: dict[str, list[int]] = {}
        self.waiting: dict[str, Any] = {}
        self.together: tuple[tuple[int, ...], dict[str, Tensor]] | None = None
        self.averages: dict[str, list[Tensor]] = {}
        self.tapped: list[tuple[str, Tensor, int]] = []
        self.blocked: list[str] = []
        self.asleep: list[str] = []
        self.fixed: list[str] = []
        self.unseen: list[tuple[str, tuple[int, ...]]] = []
        self._used = self._spent = self._read = False
        self.single = True
        self.number, self.trace, self.joined = 0, "", ""
        self.before: Record | None = None
        self.end: Tensor | None = None
        self.shared = False

    def add(self, name: str, logits: Tensor, steps: int, timed: bool) -> None:
        """Take the logits of one call of a head.

        Args:
            name: The point.
            logits: ``[N, K]``, or per step ``[T, N, K]``.
            steps: Time steps in the call.
            timed: Whether the call has time of its own.
        """
        if name in self.logits or timed:
            self.single = False
        self.logits.setdefault(name, []).append(logits)
        self.steps.setdefault(name, []).append(steps)

    def all_logits(self) -> list[Tensor]:
        """The logits of every call of every head."""
        return [logits for calls in self.logits.values() for logits in calls]

    def tensors(self) -> list[Tensor]:
        """What heads gave, and of those that wait what their logits will be computed from."""
        if not self.waiting:
            return self.all_logits()
        averages = [x for name in self.waiting for x in self.averages[name]]
        parameters = [x for one in self.waiting.values() for x in (one.weight, one.bias)]
        return [*self.all_logits(), *averages, *parameters]

    @property
    def batch_size(self) -> int:
        """Samples of the forward, as its first head saw them."""
        return self.tensors()[0].shape[-2]

    def learns(self) -> bool:
        """Whether any head, or a layer below one, can learn from the logits."""
        return any(tensor.requires_grad for tensor in self.tensors())

    def nodes(self) -> set[Any]:
        """Nodes of the graph that, in compiled code, tell that an output comes from it."""
        ends = [] if self.end is None else [self.end]
        return {tensor.grad_fn for tensor in (*self.all_logits(), *ends)}


@dataclass(eq=False)
class Forwards:
    """What the heads of one model know of its forward passes; shared by its hooks and branches.

    Attributes:
        names: The points, in the order of execution.
        homes: For each point, where its branch lives: path from the tapped module, and its key.
        layouts: Axes of the features; ``None`` where they are not known yet.
        layout: What the user says of them.
        neuron_types: Spiking neuron classes of the user's.
        num_classes: Class count where it was read, not told.
        told_classes: Class count where it was told.
        reads: What heads see: the "spikes" of their points, or the "currents" into them.
        current_at: Which argument of a spiking layer is its current, where it takes several.
        ending: The operation that the model's output ends in, as seen when wrapping; empty if not.
        channels: For each point, the channels that its head was made for.
        step_mode: Step mode of the branches, which ``set_step_mode`` sets with all others.
        looked_at: The kind of input that the layouts hold for; ``None`` before the first look.
        unclear: Sizes of inputs that did not tell all axes; None of one that left a part out.
        failed_look: What the last look ended in, if it failed.
        reach: For each tensor of the output, the points that it depends on; empty if not known.
        per_step: Whether to keep logits of every time step apart.
        always_on: Whether heads run in eval mode and without gradients too.
        outrun: Whether a point was seen with hooks after ours.
        current: The record of the forward that is running.
        again: That of one that a checkpoint runs again in a backward pass; nothing comes of it.
        records: Those since the last reset, all but the last of single time steps.
        marked: Whether any record was used, spent or read since it was last asked.
        compiled: The newest record of compiled code, where none can hang on outputs; each leads to
            the one before it, as code that looked at how many there are would be compiled anew.
        finished: Those before the last few resets, as a loss may be taken after a reset.
        together: Whether default heads may be computed when a forward ends; see ``together.py``.
        resets: Whether ``reset_net`` tells where a sequence ends: whether the model has neurons
            of SpikingJelly's.
        reached: Whether any head has ever run.
        used: Whether anything has ever used the logits.
        count: Forwards so far; ``trainings`` those to train on.
        last: The record of the last forward; ``trained`` whether it was in training mode.
        attacked: Whether its input wanted a gradient in eval mode, as to make adversarial examples.
        fed: The input of the last training forward, weakly.
        eval_backward: Version of the parameters at the last backward pass of a loss taken in eval
            mode; -1 if none waits to be judged.
        evaluations: How often the model went from training to evaluation.
        sentinel: A parameter of the model that tells, with its version, of updates.
        updates: Updates seen so far while no loss used the heads; ``backwards`` likewise.
        said: Warnings given, each once.
    """

    names: list[str] = field(default_factory=list)
    homes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    layouts: dict[str, Layout | None] = field(default_factory=dict)
    layout: str | Mapping[str, str] | None = None
    neuron_types: tuple[type, ...] = ()
    num_classes: int | None = None
    told_classes: int | None = None
    reads: str = "spikes"
    current_at: dict[str, int] = field(default_factory=dict)
    ending: str = ""
    channels: dict[str, int] = field(default_factory=dict)
    step_mode: str = "s"
    looked_at: Any = None
    unclear: list[Any] = field(default_factory=list)
    failed_look: str = ""
    reach: list[frozenset[str]] = field(default_factory=list)
    per_step: bool = False
    always_on: bool = False
    outrun: bool = False
    current: Record | None = None
    again: Record | None = None
    records: list[Record] = field(default_factory=list)
    marked: bool = False
    compiled: Record | None = None
    finished: list[Record] = field(default_factory=list)
    together: bool = True
    resets: bool = True
    reached: bool = False
    used: bool = False
    count: int = 0
    trainings: int = 0
    trained: bool = False
    attacked: bool = False
    last: Record | None = None
    fed: Any = None
    eval_backward: int = -1
    evaluations: int = 0
    sentinel: Any = None
    version: int = -1
    updates: int = 0
    backwards: int = 0
    said: set[str] = field(default_factory=set)

    def reset(self) -> None:
        """Forget the sequence so far; inside a forward, what the forward has given stays."""
        self.records = []
        if self.current is None and self.compiled is not None:
            self.finished = [*self.finished, self.compiled][-_FINISHED:]
            self.compiled = None

    @property
    def ran(self) -> bool:
        """Whether the model has run since it was wrapped."""
        return self.count > 0

    @property
    def graded(self) -> bool:
        """Whether its last forward ran with gradients."""
        return self.last is not None and self.last.graded

    @property
    def trains(self) -> bool:
        """Whether its last forward was one to train on."""
        return self.graded and self.trained

    def keep(self, record: Record) -> None:
        """Take the record of a forward that has ended.

        Forwards of single time steps gather until ``reset_net``, a loss or a backward pass; any
        other replaces what came before.
        """
        if not record.logits:
            return
        self.reached = True
        if not record.single or self._any_ended():
            self.records = []
        self.records.append(record)

    def keep_compiled(self, record: Record) -> None:
        """Take the record of a forward in compiled code, which must not ask what came before."""
        if not record.logits:
            return
        if record.single:
            record.before = self.compiled
        self.compiled = record

    def of_compiled_code(self) -> list[Record]:
        """The records of compiled code that an output may come from, in the order of time."""
        ends = [*self.finished, self.compiled]
        records = [record for newest in ends for record in _line(newest)]
        for number, record in enumerate(records):
            record.number = number
        return records

    def forget_used(self, records: Iterable[Record]) -> None:
        """Let go of compiled records that an earlier loss used, but for those of this one."""
        keep = {id(record) for record in records}

        def kept(newest: Record | None) -> Record | None:
            last = None
            for record in _line(newest):
                if not record.used or id(record) in keep:
                    record.before, last = last, record
            return last

        self.finished = [end for newest in self.finished if (end := kept(newest)) is not None]
        self.compiled = kept(self.compiled)

    def sequence(self) -> list[Record]:
        """The records since the last reset, of which the newest may end a sequence."""
        if self.records or self.compiled is None:
            return self.records
        found: list[Record] = []
        for record in reversed(_line(self.compiled)):
            if found and self._ended(record):
                break
            found.insert(0, record)
        return found

    def _any_ended(self) -> bool:
        """Whether one of the records has ended; T steps must not look at each other T times."""
        asked, self.marked = self.marked, False
        return any(self._ended(record) for record in self.records[0 if asked else -1 :])

    def _ended(self, record: Record) -> bool:
        """Whether what comes after a record is the beginning of something new."""
        read = record.read and not self.resets
        return record.used or record.spent or read or not record.single

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles start without logits: tensors inside a graph cannot be copied.
        return {
            **vars(self),
            "current": None,
            "again": None,
            "records": [],
            "compiled": None,
            "finished": [],
            "last": None,
            "sentinel": None,
            "fed": None,
        }


def in_time(pieces: list[tuple[Tensor, int]], per_step: bool) -> Tensor:
    """One tensor of the logits of several calls.

    Args:
        pieces: Logits of each call, with how many time steps it was.
        per_step: Whether to keep time steps apart.
    """
    split = pieces[0][0].ndim == 3
    if split:
        steps = pieces[0][0] if len(pieces) == 1 else torch.cat([x for x, _ in pieces])
        return steps if per_step else steps.mean(0)
    if len(pieces) == 1:
        return pieces[0][0]
    weights = {t for _, t in pieces}
    if len(weights) == 1:
        return torch.stack([x for x, _ in pieces]).mean(0)
    return torch.stack([x * t for x, t in pieces]).sum(0) / sum(t for _, t in pieces)


def _line(newest: Record | None) -> list[Record]:
    """A record of compiled code with all before it, in the order of time."""
    found: list[Record] = []
    while newest is not None:
        found.append(newest)
        newest = newest.before
    return found[::-1]
