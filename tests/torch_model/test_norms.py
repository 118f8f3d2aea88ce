import pytest
import torch

from sj_shortcut.torch_model.norms import joint_norm, l2_norm

SHAPES = [(7,), (3, 4), (4, 3, 16, 32, 32), (2, 2_400_000), (20_000, 2), (1, 1)]
SCALES = [1e-30, 1e-15, 1.0, 1e25]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES)
def test_norm(shape: tuple[int, ...], scale: float) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale
    assert l2_norm(x).item() == pytest.approx(x.double().norm().item(), rel=1e-6)
    later = tuple(range(1, x.ndim))
    if later:
        want = x.double().flatten(1).norm(dim=1)
        torch.testing.assert_close(l2_norm(x, later), want, rtol=1e-6, atol=0)


def test_norm_of_rows_of_unlike_size() -> None:
    x = torch.ones(3, 100) * torch.tensor([[1.0], [1e-25], [0.0]])
    torch.testing.assert_close(
        l2_norm(x, (1,)), x.double().norm(dim=1), rtol=1e-6, atol=0, check_dtype=False
    )


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_norm_of_special_values(value: float) -> None:
    x = torch.full((4, 5), value)
    assert l2_norm(x).item() == pytest.approx(x.norm().item(), nan_ok=True)


def test_layouts() -> None:
    x = torch.randn(4, 8, 5, 5).to(memory_format=torch.channels_last)
    assert l2_norm(x).item() == pytest.approx(x.double().norm().item(), rel=1e-6)


def test_joint_norm() -> None:
    parts = [torch.randn(3, 4), torch.randn(7)]
    want = torch.cat([part.flatten() for part in parts]).double().norm().item()
    assert joint_norm(parts).item() == pytest.approx(want, rel=1e-6)
