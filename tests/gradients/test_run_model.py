import pandas as pd
import pytest
import torch
from torch import Tensor

from sj_shortcut import gradient_flow
from tests.gradients.tools import batches, criterion
from tests.nets.small import CLASSES, N, Net, T, images, labels
from tests.nets.zoo import ZOO
from tests.refusals import refused


@pytest.mark.parametrize("name", ["multi_step", "seq_to_ann", "features", "one_of_each"])
def test_layouts(name: str) -> None:
    specimen = ZOO[name]
    frame = gradient_flow(specimen.make("m"), criterion, (specimen.sequence(), specimen.target()))
    assert (frame.status == "ok").all() and len(frame) == 4


def test_ways_to_pass_batches() -> None:
    model, many = Net(), batches(2)
    single = gradient_flow(model, criterion, many[0])
    for one in (list(many[0]), [many[0]], iter([many[0]])):
        pd.testing.assert_frame_equal(gradient_flow(model, criterion, one), single)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.rand(12, T, 8), torch.arange(12) % CLASSES),
        batch_size=N,
        shuffle=True,
        collate_fn=lambda rows: (
            torch.stack([x for x, _ in rows], 1), torch.stack([y for _, y in rows])
        ),
    )  # fmt: skip
    state = torch.get_rng_state()
    assert (gradient_flow(model, criterion, loader).batches == 4).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_models_that_loop_over_time_themselves() -> None:
    class Looping(Net):
        def forward(self, x: Tensor) -> Tensor:
            return sum(super(Looping, self).forward(x) for _ in range(T)) / T

    model, x = Looping("s"), 4 * torch.rand(N, 8)
    frame = gradient_flow(
        model, criterion, (x, labels()), forward=lambda model, x: model(x), per_step=True
    )
    model.__class__ = Net
    want = gradient_flow(model, criterion, (x.expand(T, N, 8), labels()), per_step=True)
    pd.testing.assert_frame_equal(frame, want)


def test_several_inputs_and_other_outputs() -> None:
    class Two(Net):
        def forward(self, x: Tensor, gain: Tensor) -> dict[str, Tensor]:
            return {"out": super().forward(x * gain)}

    model = Two()
    frame = gradient_flow(
        model,
        lambda out, y: criterion(out["out"].mean(0), y),
        [((images(), torch.ones(1)), labels())],
        by_source=True,
    )
    assert frame.share.tolist() == pytest.approx([1] * 4)


def test_batches_that_are_none() -> None:
    model, x = Net(), images(6)
    with refused(TypeError, "batches must be one (x, y), or an iterable of them, got Tensor."):
        gradient_flow(model, criterion, x)
    with refused(ValueError, "batch 0 must be a pair (x, y), got tuple of 3."):
        gradient_flow(model, criterion, [(1, 2, 3)])
    with refused(ValueError, "batch 1 must be a pair (x, y), got int."):
        gradient_flow(model, criterion, [(x, labels(6)), 7])


def test_time_steps_that_are_not_there() -> None:
    for x in ((images(),), images()[0, 0]):
        with refused(
            ValueError,
            "in step mode 's' x must be a tensor [T, N, ...], over whose first axis the model is "
            "called. Otherwise say with forward= how to get from (model, x) to the output.",
        ):
            gradient_flow(Net("s"), criterion, [(x, labels())])
