"""Runs the CUDA code of SpikingJelly 0.0.0.0.14's CuPy neurons on the CPU.

A stand-in for the few names of CuPy that those neurons use. A kernel's source is SpikingJelly's
own; it is compiled by the C++ compiler and runs on the memory that it was handed, with a CPU thread
for each of the GPU's. What it cannot show: the GPU's timing and rounding, half precision, streams.
"""

import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from spikingjelly import configure
from spikingjelly.activation_based import auto_cuda, base, cuda_utils, neuron, neuron_kernel

from sj_shortcut.neurons.backend_sj0 import supply_numpy_int

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
CPU = -1  # what torch's get_device() calls it

PRELUDE = """
#include <math.h>
#include <pthread.h>
#define __global__
#define __shared__ static
#define __syncthreads() pthread_barrier_wait(&barrier)
static struct { int x; } blockIdx, blockDim;
static thread_local struct { int x; } threadIdx;
static pthread_barrier_t barrier;
static pthread_mutex_t adding = PTHREAD_MUTEX_INITIALIZER;
static void atomicAdd(float* sum, float value)
{
    pthread_mutex_lock(&adding);
    *sum += value;
    pthread_mutex_unlock(&adding);
}
"""
LAUNCH = """
static void** args;
static void* run(void* index)
{{
    threadIdx.x = (long) index;
    {name}({args});
    return nullptr;
}}
extern "C" void launch(int blocks, int threads, void** given)
{{
    args = given;
    blockDim.x = threads;
    pthread_barrier_init(&barrier, nullptr, threads);
    pthread_t running[threads];
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {{
        for (long i = 0; i < threads; i++)
            pthread_create(&running[i], nullptr, run, (void*) i);
        for (long i = 0; i < threads; i++)
            pthread_join(running[i], nullptr);
    }}
    pthread_barrier_destroy(&barrier);
}}
"""


class ndarray(np.ndarray):  # noqa: N801 - the name CuPy has
    device = SimpleNamespace(id=CPU)


def asarray(value: object, dtype: object = None) -> ndarray:
    return np.asarray(value, dtype=dtype).view(ndarray)


def ascontiguousarray(value: np.ndarray) -> ndarray:
    return np.ascontiguousarray(value).view(ndarray).reshape(value.shape)


class RawKernel:
    launched: list[str] = []

    def __init__(self, code: str, name: str, options: tuple = (), backend: str = "nvrtc") -> None:
        self.code, self.name = code, name

    def __call__(self, grid: tuple[int], block: tuple[int], args: tuple[object, ...]) -> None:
        addresses = [arg if isinstance(arg, int) else arg.ctypes.data for arg in args]
        pointers = (ctypes.c_void_p * len(args))(*addresses)
        compiled(self.code, self.name).launch(grid[0], block[0], pointers)
        RawKernel.launched.append(self.name)


@functools.cache
def compiled(code: str, name: str) -> ctypes.CDLL:
    launch = LAUNCH.format(name=name, args=", ".join(arguments(code, name)))
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
        source.write_text(PRELUDE + code.replace("#include <cuda_fp16.h>", "") + launch)
        flags = ["-O1", "-shared", "-fPIC", "-pthread"]
        subprocess.run([COMPILER, *flags, "-o", library, source], check=True)
        return ctypes.CDLL(str(library))


def arguments(code: str, name: str) -> list[str]:
    """The kernel's arguments in C++, taken from addresses; of `const int & N`, `*(const int*)`."""
    (parameters,) = re.findall(rf"void {name}\s*\((.*?)\)\s*{{", code, re.S)
    kinds = re.findall(r"([\w ]+?)\s*([*&])\s*\w+\s*(?:,|$)", parameters)
    return [
        f"{'*' if by == '&' else ''}({kind.strip()}*)args[{i}]"
        for i, (kind, by) in enumerate(kinds)
    ]


def install(monkeypatch: pytest.MonkeyPatch, supplied: bool = True) -> None:
    """Have SpikingJelly's CuPy backend run on the CPU until the test ends."""
    standin = SimpleNamespace(
        ndarray=ndarray, asarray=asarray, ascontiguousarray=ascontiguousarray, RawKernel=RawKernel
    )
    users = (base, neuron, neuron_kernel, cuda_utils, auto_cuda.base, auto_cuda.neuron_kernel)
    for module in users:
        monkeypatch.setattr(module, "cupy", standin)
    monkeypatch.setattr(neuron, "neuron_kernel", neuron_kernel)
    monkeypatch.setattr(neuron, "cuda_utils", cuda_utils)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: CPU)
    # Present NumPy has no `int`: what set_backend does about it, until the test ends.
    monkeypatch.setattr(auto_cuda.base, "np", np)
    if supplied:
        supply_numpy_int()
    monkeypatch.setattr(configure, "cuda_threads", 8)  # so that small tensors take several blocks
    RawKernel.launched.clear()
