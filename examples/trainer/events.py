"""Event recordings through SpikingJelly's data set classes, as frames.

SpikingJelly converts raw recordings to arrays and arrays to frames, once, into the data folder.
Where it leaves half of that behind (an interrupted conversion, a recording it cannot read), this
cleans up and names the file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from spikingjelly.datasets.cifar10_dvs import CIFAR10DVS
from spikingjelly.datasets.dvs128_gesture import DVS128Gesture
from spikingjelly.datasets.n_caltech101 import NCaltech101
from spikingjelly.datasets.n_mnist import NMNIST
from torch import Tensor
from torchvision.transforms import v2

from .errors import UserError, one_line
from .folder import one_at_a_time
from .loading import Data, Transformed, first_per_class

__all__ = ["DATASETS", "load"]

DATASETS = {
    "n-mnist": NMNIST,
    "cifar10-dvs": CIFAR10DVS,
    "dvs128-gesture": DVS128Gesture,
    "n-caltech101": NCaltech101,
}
WITHOUT_SPLIT = ("cifar10-dvs", "n-caltech101")
TRAINING_SHARE = 0.9


def load(args: argparse.Namespace) -> Data:
    """The data set that the flags ask for."""
    root = Path(args.data_dir)
    with one_at_a_time(root, lambda: converted(root) and framed(root, args)):
        return read(root, args)


def read(root: Path, args: argparse.Namespace) -> Data:
    kind = DATASETS[args.dataset]
    prepare_arrays(kind, root)
    if args.dataset in WITHOUT_SPLIT:
        whole = frames(kind, root, args)
        train_indices, test_indices = split_in_file_order(whole.targets)
        split_files = {
            "train": [relative_name(whole, i) for i in train_indices],
            "test": [relative_name(whole, i) for i in test_indices],
        }
        split = (
            f"{args.dataset} has no official one: the first 90 % of each class in file order for "
            "training, the rest for testing, listed in split.json"
        )
        train = test = whole
    else:
        train, test = (frames(kind, root, args, train=part) for part in (True, False))
        if train.classes != test.classes:
            differing = sorted(set(train.classes) ^ set(test.classes))
            raise UserError(f"{root}: only one of train/ and test/ has the class {differing[0]}")
        train_indices, test_indices = list(range(len(train))), list(range(len(test)))
        split, split_files = f"the official one of {args.dataset}", {}
    train_indices = subset(train, train_indices, args.train_per_class)
    test_indices = subset(test, test_indices, args.test_per_class)
    return Data(
        Transformed(train, train_indices, transform(args, augment=True)),
        Transformed(test, test_indices, transform(args, augment=False)),
        train.classes,
        f"{split}; {len(train_indices)} training and {len(test_indices)} test recordings used, "
        f"in {args.T} frames of equal {'duration' if args.split_by == 'time' else 'event number'}",
        split_files,
    )


def subset(dataset: Any, indices: list[int], per_class: int | None) -> list[int]:
    labels = [dataset.targets[i] for i in indices]
    return [indices[i] for i in first_per_class(labels, per_class)]


def split_in_file_order(labels: list[int]) -> tuple[list[int], list[int]]:
    """What spikingjelly.datasets.split_to_train_test_set(0.9, ...) does by loading every sample."""
    train, test = [], []
    for label in sorted(set(labels)):
        own = [i for i, other in enumerate(labels) if other == label]
        border = math.ceil(len(own) * TRAINING_SHARE)
        train += own[:border]
        test += own[border:]
    return train, test


def relative_name(dataset: Any, index: int) -> str:
    path = Path(dataset.samples[index][0])
    return f"{path.parent.name}/{path.name}"


def transform(args: argparse.Namespace, augment: bool) -> v2.Transform:
    """Frames [T, 2, H, W] to a tensor, resized, and for training flipped and rolled."""
    steps: list[Any] = [v2.Lambda(to_tensor)]
    if args.resize:
        steps.append(v2.Resize((args.resize, args.resize), antialias=True))
    if augment and args.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augment and args.roll:
        steps.append(RandomRoll(args.roll))
    return v2.Compose(steps)


def to_tensor(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames, dtype=np.float32))


class RandomRoll:
    """Shift all frames by the same random number of pixels; what leaves comes in opposite."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels

    def __call__(self, frames: Tensor) -> Tensor:
        shifts = torch.randint(-self.pixels, self.pixels + 1, (2,)).tolist()
        return torch.roll(frames, shifts, dims=(-2, -1))


# From raw recordings to arrays


def prepare_arrays(kind: Any, root: Path) -> None:
    """Let SpikingJelly make root/events_np out of the downloaded archives, all of it or none."""
    arrays, marker, unfinished = root / "events_np", *markers(root)
    try:
        if marker.exists() or unfinished.exists():
            shutil.rmtree(arrays, ignore_errors=True)
            shutil.rmtree(root / "extract", ignore_errors=True)
            marker.unlink(missing_ok=True)
        if arrays.is_dir():
            return
        check_archives(kind, root)
        root.mkdir(parents=True, exist_ok=True)
        existed = {path for path in (root / "download", root / "extract") if path.exists()}
        unfinished.touch()
    except OSError as error:
        raise UserError(
            f"cannot prepare {root} ({one_line(error)}): it must be writable"
        ) from error
    print(f"converting the recordings in {root}, once", flush=True)
    problem = None
    try:
        with quiet(), numpy_reads_strings():
            train = None if kind in (CIFAR10DVS, NCaltech101) else True
            kind(str(root), **({} if train is None else {"train": train}), data_type="event")
    except Exception as error:
        problem = error
    missing = [] if not arrays.exists() else unconverted(kind, root)
    if problem is None and not missing:
        unfinished.unlink()
        return
    for path in {arrays, root / "extract", root / "download"} - existed:
        if path.name != "download" or not any(path.glob("*")):
            shutil.rmtree(path, ignore_errors=True)
    marker.unlink(missing_ok=True)
    unfinished.unlink(missing_ok=True)
    if missing:
        reason = f" ({one_line(problem)})" if problem else ""
        raise UserError(
            f"SpikingJelly cannot convert the recording {missing[0]}{reason}: it is truncated or "
            f"damaged; get the archive in {root / 'download'} anew, or mend it"
        )
    raise UserError(
        f"{kind.__name__} is not in {root} and cannot be made ({one_line(problem)}): put "
        f"{archives(kind)} into {root / 'download'}"
    ) from problem


def markers(root: Path) -> tuple[Path, Path]:
    """Of a conversion under way: 2.0.0 leaves one behind, 0.0.0.0.14 none, so the other is ours."""
    return root / "events_np.building", root / ".events_np.unfinished"


def converted(root: Path) -> bool:
    return (root / "events_np").is_dir() and not any(path.exists() for path in markers(root))


def check_archives(kind: Any, root: Path) -> None:
    """Say which archives are wanted, and where, if SpikingJelly cannot download them."""
    wanted = [root / "download" / name for name, _, _ in kind.resource_url_md5()]
    absent = [path for path in wanted if not path.exists()]
    if absent and not kind.downloadable():
        raise UserError(
            f"{kind.__name__} is not in {root} and cannot be downloaded automatically: put "
            f"{archives(kind)} into {root / 'download'} (missing: {absent[0].name})"
        )


def archives(kind: Any) -> str:
    names = ", ".join(name for name, _, _ in kind.resource_url_md5())
    return f"{names} from {kind.resource_url_md5()[0][1]}"


def unconverted(kind: Any, root: Path) -> list[Path]:
    """Raw recordings of which SpikingJelly made no array; 0.0.0.0.14 does not say so itself."""
    raw, arrays = root / "extract", root / "events_np"
    if kind is DVS128Gesture:
        missing = []
        for part in ("train", "test"):
            listing = raw / "DvsGesture" / f"trials_to_{part}.txt"
            for name in listing.read_text().split() if listing.exists() else ():
                recording = listing.with_name(name)
                labels = recording.with_name(f"{recording.stem}_labels.csv")
                made = len(list((arrays / part).glob(f"*/{recording.stem}_[0-9]*.npz")))
                if not labels.exists() or made < len(labels.read_text().split()) - 1:
                    missing.append(recording)
        return missing
    if kind is NCaltech101:
        raw = raw / "Caltech101"
    event_size = 1 if kind is CIFAR10DVS else 5  # bytes; SpikingJelly overlooks half an event
    return sorted(
        path
        for path in raw.rglob("*.*")
        if path.is_file()
        and (
            not (arrays / target_of(kind, path.relative_to(raw))).exists()
            or path.stat().st_size % event_size
        )
    )


def target_of(kind: Any, recording: Path) -> Path:
    """Name of the array that SpikingJelly makes of a raw recording."""
    if kind is NMNIST:  # Train/5/00001.bin becomes train/5/00001.npz
        recording = Path(recording.parts[0].lower(), *recording.parts[1:])
    return recording.with_suffix(".npz")


# From arrays to frames


def frames(kind: Any, root: Path, args: argparse.Namespace, **part: bool) -> Any:
    """The data set in frames, which SpikingJelly makes once and keeps; complete, or an error."""
    folder = frames_folder(root, args)
    problem = None
    try:
        if not covers(folder, root / "events_np"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_name(f"{folder.name}.building").unlink(missing_ok=True)
            print(f"making {args.T} frames of each recording in {root}, once", flush=True)
        with quiet():
            dataset = kind(
                str(root), data_type="frame", frames_number=args.T, split_by=args.split_by, **part
            )
    except Exception as error:
        problem = error
    missing = without_frames(folder, root / "events_np")
    if missing:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(f"{folder.name}.building").unlink(missing_ok=True)
        reason = f" ({one_line(problem)})" if problem else ""
        raise UserError(
            f"SpikingJelly cannot make {args.T} frames by {args.split_by} of {missing[0]}{reason}: "
            "the file is empty, truncated or damaged; replace or remove it, or choose fewer "
            "--frames or --split-by number"
        )
    if problem is not None:
        raise UserError(f"cannot read {root} ({one_line(problem)}): is it writable?") from problem
    dataset.loader = NamedErrors(dataset.loader)
    return dataset


def frames_folder(root: Path, args: argparse.Namespace) -> Path:
    """Where SpikingJelly keeps frames."""
    return root / f"frames_number_{args.T}_split_by_{args.split_by}"


def framed(root: Path, args: argparse.Namespace) -> bool:
    return covers(frames_folder(root, args), root / "events_np")


def covers(folder: Path, arrays: Path) -> bool:
    building = folder.with_name(f"{folder.name}.building")
    return folder.is_dir() and not building.exists() and not without_frames(folder, arrays)


def without_frames(folder: Path, arrays: Path) -> list[Path]:
    """Arrays of which there are no frames."""
    return sorted(
        path
        for path in arrays.rglob("*.np[yz]")
        if not (folder / path.relative_to(arrays)).exists()
    )


class NamedErrors:
    """Reads frames; a file that cannot be read is named."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        self.read = read

    def __call__(self, path: str) -> Any:
        try:
            return self.read(path)
        except Exception as error:
            raise UserError(
                f"cannot read the frames {path} ({one_line(error)}): remove this file, and the "
                "next run makes it anew"
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """SpikingJelly 0.0.0.0.14 prints a line for every file."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def numpy_reads_strings() -> Iterator[None]:
    """Let 0.0.0.0.14 convert CIFAR10-DVS: NumPy 2.3 took the binary mode out of np.fromstring."""
    functions: Any = np
    before = functions.fromstring
    functions.fromstring = functions.frombuffer
    try:
        yield
    finally:
        functions.fromstring = before
