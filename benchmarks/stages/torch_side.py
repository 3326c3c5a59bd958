"""The PyTorch side of benchmarks/accelerator.py: answers the questions of stages/peer.py.

    {"do": "step", "case": {...}, "compiled": false, "steps": 5}    seconds a step
    {"do": "autoattack", "file": "problem.npz", ...}                 seconds, and verdicts

It imports no JAX, which would take the device's memory.
"""

import contextlib
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import sides
import torch
import train_step_torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_steps: dict[str, tuple[Callable[[], None], float]] = {}


def step(question: dict[str, Any]) -> dict[str, Any]:
    """Returns the mean seconds of a training step."""
    key = str((sorted(question["case"].items()), question["compiled"]))
    if key not in _steps:
        # One case at a time: others would hold memory.
        for old in [old for old in _steps if str(sorted(question["case"].items())) not in old]:
            del _steps[old]
        gc.collect()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        take = train_step_torch.prepare(
            question["case"], device=DEVICE, compiled=question["compiled"]
        )
        for _ in range(3):  # The first compiles, where asked to; cuDNN tries its algorithms.
            take()
        synchronize()
        _steps[key] = take, time.perf_counter() - began
    take, prepared = _steps[key]
    began = time.perf_counter()
    for _ in range(question["steps"]):
        take()
    synchronize()
    return {
        "seconds": (time.perf_counter() - began) / question["steps"],
        "prepared": prepared,
        "bytes": torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0,
    }


def autoattack(question: dict[str, Any]) -> dict[str, Any]:
    """Returns the seconds of the attacks, which images stand, and the logits of a few images."""
    from pyautoattack import AutoAttack
    from safetensors.torch import load_file

    # As here: float32 products, none as TF32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    with np.load(question["problem"], allow_pickle=False) as problem:
        images = torch.tensor(problem["images"].transpose(0, 3, 1, 2).copy()).to(DEVICE)
        labels = torch.tensor(problem["labels"].astype(np.int64)).to(DEVICE)
        mean, std = problem["mean"].tolist(), problem["std"].tolist()
    weights = load_file(question["weights"])
    model = train_step_torch.ResNet18(
        weights["conv1.weight"].shape[0],
        images.shape[1],
        classes=weights["linear.weight"].shape[0],
        mean=mean,
        std=std,
    )
    model.load_state_dict(weights)
    model = model.eval().to(DEVICE, memory_format=torch.channels_last)
    model.requires_grad_(False)
    attack = AutoAttack(
        lambda x: model(_ChannelsLast.apply(x)),
        norm="Linf",
        eps=question["epsilon"],
        seed=0,
        version="standard",
        device=DEVICE,
    )
    attack.attacks_to_run = question["attacks"]
    synchronize()
    began = time.perf_counter()
    found = attack.run_standard_evaluation(images, labels, batch_size=question["batch"])
    synchronize()
    seconds = time.perf_counter() - began
    adversarial = found[0] if isinstance(found, tuple) else found
    with torch.no_grad():
        robust = model(adversarial).argmax(1) == labels
        logits = model(images[:8])
    return {
        "seconds": seconds,
        "robust": robust.int().tolist(),
        "logits": logits.tolist(),
    }


class _ChannelsLast(torch.autograd.Function):
    """Images in the network's memory format, and their gradient in that of the attacks.

    The attacks take views of images and gradients that channels_last does not allow.
    """

    @staticmethod
    def forward(context: Any, images: torch.Tensor) -> torch.Tensor:
        del context
        return images.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        del context
        return gradient.contiguous()


def synchronize() -> None:
    """Waits for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Answers a question; whatever libraries print does not get between the answers."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            return {"step": step, "autoattack": autoattack}[question["do"]](question)
        except Exception as error:
            _steps.clear()
            if DEVICE == "cuda":
                torch.cuda.empty_cache()
            return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    sides.serve({"device": DEVICE, "version": torch.__version__}, answer)
