"""What an output ends in."""

import torch
from torch import nn

from sj_shortcut.torch_model import ending_of
from tests.nets.small import skip_unless_neurons_compile


def logits() -> torch.Tensor:
    return torch.randn(3, 2, 4).requires_grad_()


def test_averages_over_time_and_scales_are_passed_over():
    output = torch.sigmoid(logits())
    for changed in (output, output.mean(0), 0.5 * output[-1], torch.stack(list(output)).amax(0)):
        assert ending_of(changed) == "SigmoidBackward0"


def test_logarithms_are_of_what_they_are_taken_of():
    assert ending_of(logits().softmax(-1).log()) == "LogSoftmaxBackward0"
    assert ending_of(logits().sigmoid().log()) == "LogSigmoidBackward0"
    assert ending_of(logits().exp().log()) == "LogBackward0"


def test_parts_that_differ_and_outputs_without_a_graph_have_none():
    x = logits()
    assert ending_of(torch.cat([x.sigmoid(), x.tanh()])) == ""
    assert ending_of(x.detach()) == ""


def test_compiled_code_ends_in_what_is_said_of_it():
    skip_unless_neurons_compile()
    compiled = torch.compile(nn.Linear(4, 2), backend="aot_eager")(torch.rand(3, 4))
    assert ending_of(compiled, "SoftmaxBackward0") == "SoftmaxBackward0"
    assert ending_of(compiled.log(), "SoftmaxBackward0") == "LogSoftmaxBackward0"
    assert ending_of(compiled.sigmoid(), "SoftmaxBackward0") == "SigmoidBackward0"
