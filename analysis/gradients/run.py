"""One short training, and the gradients of its first layer before and after."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice

import pandas as pd
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from analysis.common.images import Images, augmented_batches, load_images
from analysis.common.versions import made_with
from analysis.gradients.plan import Run
from analysis.paper.nets import SpikingResNet
from sj_shortcut import gradient_histogram, shortcut_backpropagation

__all__ = ["train"]

RATE, WEIGHT_DECAY = 0.01, 0.02  # AdamW's, as in the paper; its cosine hardly falls in so few steps
IMAGES = 200  # of each class
HELD = 1  # image of each class that the loader sets apart, unused here


def train(run: Run) -> dict[str, pd.DataFrame]:
    """Train on one thread, measure, and return the rows for each table."""
    torch.set_num_threads(1)
    images = load_images(run.data, IMAGES, HELD, HELD)
    version = made_with(torch.device("cpu"))
    torch.manual_seed(run.seed)
    model: nn.Module = SpikingResNet("resnet", run.depth, run.width, surrogate=run.surrogate)
    criterion: nn.Module = nn.CrossEntropyLoss()
    if run.method == "eq6":
        criterion = shortcut_backpropagation(model, criterion)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    # Images of another seed than those that are trained on next.
    measured = list(islice(batches(images, run, 1000 * run.seed + 999), run.measured))
    began = time.process_time()
    frames = [gradient_histogram(model, criterion, measured, step=0)]
    losses = []
    for x, y in islice(batches(images, run, 1000 * run.seed), run.steps):
        output = model(x).mean(0)
        loss = criterion(output, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(model)
        losses.append(float(nn.functional.cross_entropy(output.detach(), y)))
    frames.append(gradient_histogram(model, criterion, measured, step=run.steps))
    bins = pd.concat(frames)
    bins.insert(0, "run", run.key)
    late = losses[-len(losses) // 4 :]
    row = {
        "run": run.key,
        **asdict(run),
        "loss": sum(late) / len(late),
        "seconds": time.process_time() - began,
        **version,
    }
    return {"bins": bins, "runs": pd.DataFrame([row])}


def batches(images: Images, run: Run, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches ``[T, N, 3, S, S]`` without end, cropped and flipped; all images once an epoch."""
    epoch = 0
    while True:
        for x, y in augmented_batches(images, run.batch, seed + epoch):
            yield x.expand(run.T, *x.shape), y
        epoch += 1
