"""Paired times, their intervals, and memory."""

import random

import pandas as pd
import torch

from analysis.overhead.timing import interleave, median, peak_bytes

CPU = torch.device("cpu")


def test_rounds_are_paired_and_in_changing_order():
    calls = []
    values = {"one": iter([1.0, 2.0, 4.0, 8.0] * 5), "two": iter([2.0, 4.0, 8.0, 16.0] * 5)}

    def measure(name):
        calls.append(name)
        return next(values[name])

    measures = {name: lambda name=name: measure(name) for name in values}
    times = interleave(measures, 20, random.Random(0))
    # Times that vary eightfold, and in each round one is twice the other.
    assert median(times["two"] / times["one"]) == (2.0, 2.0, 2.0)
    assert {tuple(calls[i : i + 2]) for i in range(0, 40, 2)} == {("one", "two"), ("two", "one")}


def test_the_interval_holds_the_median_and_narrows():
    draw = torch.Generator().manual_seed(0)
    few, many = (pd.Series(torch.randn(n, generator=draw).numpy()) for n in (20, 400))
    assert median(few).low < 0 < median(few).high
    assert median(many).high - median(many).low < (median(few).high - median(few).low) / 2


def test_memory_is_the_peak_and_not_the_sum():
    def step():
        for _ in range(3):
            one = torch.empty(2**20, dtype=torch.uint8)
            del one
        two, three = torch.empty(2**19, dtype=torch.uint8), torch.empty(2**20, dtype=torch.uint8)
        del two, three

    assert peak_bytes(step, CPU) == 2**20 + 2**19
