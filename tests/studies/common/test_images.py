"""Images as bytes, their parts, crops and flips."""

import pytest
import torch

from analysis.common.data import missing
from analysis.common.images import augmented_batches, crop_and_flip, load_images


@pytest.fixture
def images():
    return load_images("digits", 60, 20, 10)


def rows(x: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in x}


def test_parts_do_not_overlap(images) -> None:
    train, val, test = (rows(part.x) for part in (images.train, images.val, images.test))
    assert not train & val and not train & test and not val & test
    assert torch.bincount(images.train.y).tolist() == [60] * 10
    assert torch.bincount(images.val.y).tolist() == [20] * 10
    assert torch.bincount(images.test.y).tolist() == [10] * 10


def test_training_images_are_normalised_by_channel(images) -> None:
    x = images.normalised(images.train.x)
    assert x.mean((0, 2, 3)).abs().max() < 1e-5
    assert (x.std((0, 2, 3)) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("down", "right"), [(0, 0), (4, 4), (8, 3)])
def test_a_crop_is_a_window_of_the_padded_image(down, right, flip) -> None:
    x = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8).to(torch.uint8)
    places = torch.tensor([4, down]), torch.tensor([4, right]), torch.tensor([False, flip])
    found = crop_and_flip(x, *places, 4)
    padded = torch.nn.functional.pad(x[1], (4, 4, 4, 4))
    window = padded[:, down : down + 8, right : right + 8]
    assert torch.equal(found[1], window.flip(-1) if flip else window)
    assert torch.equal(found[0], x[0])  # a window in the middle is the image itself


def test_every_image_comes_once_and_the_seed_decides_how(images) -> None:
    def labels(seed: int) -> list[int]:
        return torch.cat([y for _, y in augmented_batches(images, 64, seed)]).tolist()

    assert sorted(labels(0)) == sorted(images.train.y.tolist())
    assert labels(0) == labels(0) != labels(1)
    first, again = (next(augmented_batches(images, 64, 0))[0] for _ in range(2))
    assert torch.equal(first, again)
    sizes = [len(y) for _, y in augmented_batches(images, 64, 0)]
    assert sizes == [64] * 9 + [24]


def test_crops_and_flips_are_drawn_for_each_image(images) -> None:
    x, y = next(augmented_batches(images, 600, 0))
    plain = rows(images.normalised(images.train.x))
    unchanged = sum(image.contiguous().numpy().tobytes() in plain for image in x)
    assert 600 / 18 / 3 < unchanged < 3 * 600 / 18  # one of 3 x 3 windows, half of them mirrored


@pytest.mark.skipif(bool(missing("cifar10")), reason=missing("cifar10") or "it is there")
def test_cifar10_at_full_size() -> None:
    images = load_images("cifar10", 3, 2, 1)
    assert images.train.x.shape == (30, 3, 32, 32) and images.train.x.dtype == torch.uint8
    assert len(rows(images.train.x) | rows(images.val.x)) == 50
