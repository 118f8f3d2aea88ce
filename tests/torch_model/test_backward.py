import threading

import torch
from torch.utils.checkpoint import checkpoint

from sj_shortcut.torch_model.backward import NO_BACKWARD, backward_task, in_backward


def test_a_forward_pass_is_no_backward_pass() -> None:
    assert not in_backward() and backward_task() == NO_BACKWARD


def test_a_checkpoint_runs_its_part_again_in_the_backward_pass() -> None:
    seen = []

    def part(x: torch.Tensor) -> torch.Tensor:
        seen.append((in_backward(), backward_task() != NO_BACKWARD))
        return x.sin()

    x = torch.ones(3, requires_grad=True)
    checkpoint(part, x, use_reentrant=False).sum().backward()
    assert seen == [(False, False), (True, True)]
    assert not in_backward()


def test_each_backward_pass_has_a_number_of_its_own() -> None:
    tasks = []
    x = torch.ones(3, requires_grad=True)
    x.register_hook(lambda grad: tasks.append(backward_task()))
    for _ in range(2):
        x.sum().backward()
    assert len(set(tasks)) == 2


def test_a_backward_pass_of_another_thread_is_not_ours() -> None:
    inside, looked, seen = threading.Event(), threading.Event(), []
    x = torch.ones(3, requires_grad=True)

    def hook(grad: torch.Tensor) -> None:
        seen.append(in_backward())
        inside.set()
        assert looked.wait(60)

    x.register_hook(hook)
    thread = threading.Thread(target=x.sum().backward)
    thread.start()
    assert inside.wait(60)
    ours = in_backward()
    looked.set()
    thread.join(60)
    assert seen == [True] and not ours


def test_compiled_code_takes_it_for_a_forward_pass() -> None:
    @torch.compile(backend="eager", fullgraph=True)
    def double(x: torch.Tensor) -> torch.Tensor:
        return x if in_backward() else 2 * x

    assert double(torch.ones(1)).item() == 2
