"""A model that was trained with heads and freed of them goes where it could go without them."""

import io
from pathlib import Path

import nir
import onnxruntime
import pytest
import torch
from spikingjelly.activation_based import base, functional, layer, neuron
from torch import Tensor, nn

from sj_shortcut import ShortcutLoss, has_shortcuts, remove_shortcuts, wrap_with_shortcuts
from tests.nets.small import skip_unless_neurons_compile

T, N, CLASSES = 2, 3, 10
NEURONS = [
    neuron.IFNode,
    neuron.LIFNode,
    neuron.ParametricLIFNode,
    *([neuron.PSN] if hasattr(neuron, "PSN") else []),
]
SECOND_GENERATION = hasattr(base, "to_functional_forward")

# The exporter warns of membrane potentials, which an exported model makes anew at every call.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The tensor attribute.* assigned during export",
    "ignore:While compiling, we found certain side effects",
)


def spikes(cls: type[nn.Module]) -> nn.Module:
    if cls is not getattr(neuron, "PSN", None):
        return cls(v_threshold=0.1)
    made = cls(T=T)
    nn.init.constant_(made.bias, -0.1)  # its threshold, which an untrained network does not reach
    return made


def plain_model(cls: type[nn.Module], norm: bool = True) -> nn.Module:
    model = nn.Sequential(
        layer.Conv2d(3, 8, 3, padding=1),
        *([layer.BatchNorm2d(8)] if norm else []),
        spikes(cls),
        layer.Conv2d(8, 16, 3, stride=2, padding=1),
        *([layer.BatchNorm2d(16)] if norm else []),
        spikes(cls),
        layer.Conv2d(16, 16, 3, stride=2, padding=1),
        spikes(cls),
        layer.Flatten(),
        layer.Linear(64, CLASSES),
    )
    functional.set_step_mode(model, "m")
    return model


def images() -> Tensor:
    return torch.rand(T, N, 3, 8, 8)


def trained(model: nn.Module) -> nn.Module:
    """The model in eval mode, after two steps with heads, which are gone again."""
    wrap_with_shortcuts(model)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        criterion(model(images()).mean(0), torch.arange(N)).backward()
        optimizer.step()
        functional.reset_net(model)
    return remove_shortcuts(model).eval()


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        output = model(x)
    functional.reset_net(model)
    return output


@pytest.fixture(params=NEURONS, ids=lambda cls: cls.__name__)
def case(request) -> tuple[nn.Module, Tensor, Tensor]:
    """A trained model, an input of it, and its output for that."""
    torch.manual_seed(0)
    model = trained(plain_model(request.param))
    x = images()
    expected = outputs(model, x)
    assert expected.std(1).min() > 0  # spikes reach the classifier: images are told apart
    return model, x, expected


def with_states_made(model: nn.Module, x: Tensor) -> nn.Module:
    """Membrane potentials as tensors at rest: 0.0.0.0.14 makes them in forward, as constants."""
    with torch.no_grad():
        model(x)
    for module in model.modules():
        if isinstance(module, neuron.BaseNode):
            module.v = torch.full_like(module.v, module.v_reset)
    return model


def test_torch_export(case):
    skip_unless_neurons_compile()
    model, x, expected = case
    if not SECOND_GENERATION:
        with_states_made(model, x)
    program = torch.export.export(model, (x,))
    for _ in range(2):  # it starts from rest every time
        torch.testing.assert_close(program.module()(x), expected)
    assert not any("shortcut" in name for name in program.state_dict)

    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(x), expected)


def test_torch_export_sees_no_difference_to_a_model_that_never_had_heads(case):
    skip_unless_neurons_compile()
    model, x, _ = case
    twin = plain_model(type(model[2]))
    twin.load_state_dict(model.state_dict(), strict=True)
    codes = []
    for exported in (model, twin.eval()):
        if not SECOND_GENERATION:
            with_states_made(exported, x)
        codes.append(torch.export.export(exported, (x,)).module().code)
    assert codes[0] == codes[1]


def run_onnx(file: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(file)
    (name,) = [given.name for given in session.get_inputs()]
    (output,) = session.run(None, {name: x.numpy()})
    return torch.from_numpy(output)


def test_onnx(case, tmp_path):
    model, x, expected = case
    try:
        torch.onnx.export(plain_model(type(model[2])).eval(), (x,), dynamo=True, verbose=False)
    except torch.onnx.errors.OnnxExporterError:
        pytest.skip("this PyTorch, with this onnxscript, cannot export a batch norm")
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    torch.testing.assert_close(run_onnx(tmp_path / "model.onnx", x), expected)


def test_a_wrapped_model_in_eval_mode_exports_without_its_heads(case):
    model, x, expected = case
    wrap_with_shortcuts(model)
    if not SECOND_GENERATION:
        with_states_made(model, x)
    # As by default in newer PyTorch: tracing of 2.6 loses parameters where a module has hooks.
    program = torch.export.export(model, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), expected)
    assert not any(
        "shortcut" in str(node.target) for node in program.graph.nodes if node.op == "call_function"
    )
    assert has_shortcuts(model)


@pytest.mark.skipif(SECOND_GENERATION, reason="2.0.0 exports as it is")
def test_what_the_first_generation_needs_it_needs_without_heads_too():
    skip_unless_neurons_compile()
    model = plain_model(neuron.LIFNode).eval()
    with pytest.raises(RuntimeError, match="fake tensor"):
        torch.export.export(model, (images(),))


# NIR, the format of neuromorphic hardware


@pytest.mark.parametrize("cls", NEURONS[:3])
def test_nir_and_back(cls, tmp_path):
    nir_exchange = pytest.importorskip(
        "spikingjelly.activation_based.nir_exchange.to_nir", reason="0.0.0.0.14 has no NIR"
    )
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    torch.manual_seed(0)
    model = trained(plain_model(cls, norm=False))
    x = images()
    expected = outputs(model, x)
    graph = nir_exchange.export_to_nir(model, x, save_path=tmp_path / "model.nir")
    assert len(graph.nodes) == len(nir.read(tmp_path / "model.nir").nodes) == len(model) + 2
    back = import_from_nir(nir.read(tmp_path / "model.nir"))
    functional.set_step_mode(back, "m")
    output, _ = back(x)
    torch.testing.assert_close(output, expected)
