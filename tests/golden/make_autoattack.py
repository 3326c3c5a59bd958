"""Writes autoattack_verdicts.npz: the PyTorch implementation's verdicts on two small networks.

    python3 -m venv /tmp/reference
    /tmp/reference/bin/pip install torch numpy
    /tmp/reference/bin/pip install --no-deps pyautoattack==0.2.0
    /tmp/reference/bin/python tests/golden/make_autoattack.py

pyautoattack is Croce and Hein's implementation as packaged on PyPI. It runs its own standard
version (100 iterations, 9 targets, 5000 queries) on the first 1000 test images of Fashion-MNIST and
the networks of train_small_cnn.py: each attack alone on all images and, for Linf, all in turn. For
each network and attack, the file holds one bit per image: robust or broken.
"""

import gzip
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from pyautoattack import AutoAttack
from torch.nn import functional

HERE = Path(__file__).parent
DATA = Path("/usr/share/datasets/fashion-mnist")
NUM_IMAGES = 1000
EPSILONS = {"Linf": 0.1, "L2": 1.0}
NETWORKS = ("adversarial", "standard")
ATTACKS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")


class SmallCNN(torch.nn.Module):
    """`bat_jax.models.small_cnn` in PyTorch, with Flax's parameters."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        with np.load(file, allow_pickle=False) as parameters:
            for name in parameters:
                layer, kind = name.split("/")
                value = parameters[name]
                axes = (3, 2, 0, 1) if value.ndim == 4 else (1, 0)
                value = value.transpose(axes) if kind == "kernel" else value
                tensor = torch.tensor(np.ascontiguousarray(value))
                if tensor.ndim == 4:
                    tensor = tensor.contiguous(memory_format=torch.channels_last)
                self.register_buffer(f"{layer}_{kind}", tensor)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = ((images - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
        for layer, stride in (("Conv_0", 1), ("Conv_1", 2), ("Conv_2", 2)):
            kernel, bias = getattr(self, f"{layer}_kernel"), getattr(self, f"{layer}_bias")
            x = functional.relu(functional.conv2d(x, kernel, bias, stride, padding=1))
        x = x.permute(0, 2, 3, 1).flatten(1)  # Flax flattens with the channels last.
        x = functional.relu(functional.linear(x, self.Dense_0_kernel, self.Dense_0_bias))
        return functional.linear(x, self.head_kernel, self.head_bias)


def read(name: str, header: int) -> np.ndarray:
    """Returns the bytes of an IDX file."""
    return np.frombuffer(gzip.decompress((DATA / name).read_bytes())[header:], np.uint8)


def test_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the images (NCHW in [0, 1]) and labels of the cross-check."""
    images = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)[:NUM_IMAGES]
    labels = read("t10k-labels-idx1-ubyte.gz", 8)[:NUM_IMAGES]
    return torch.tensor(images.astype(np.float32) / 255), torch.tensor(labels.astype(np.int64))


def reference(model: torch.nn.Module, norm: str) -> AutoAttack:
    """Returns the standard version of the reference."""
    return AutoAttack(model, norm=norm, eps=EPSILONS[norm], seed=0, version="standard")


def main() -> None:
    """Runs the attacks that the file lacks; about an hour on two cores."""
    images, labels = test_images()
    file = HERE / "autoattack_verdicts.npz"
    verdicts = dict(np.load(file, allow_pickle=False)) if file.exists() else {}
    for norm, network in itertools.product(EPSILONS, NETWORKS):
        runs = [(name, (name,)) for name in ATTACKS]
        if norm == "Linf":
            runs.append(("whole", ("apgd-ce", "apgd-t", "fab-t", "square")))
        model = SmallCNN(HERE / f"small_cnn_{network}.npz").eval()
        verdicts[f"{network}/logits"] = model(images[:10]).detach().numpy()
        for name, attacks in runs:
            verdict = f"{network}/{norm.lower()}/{name}"
            if verdict in verdicts:
                continue
            attack = reference(model, norm)
            attack.attacks_to_run = list(attacks)
            start = time.perf_counter()
            adversarial = attack.run_standard_evaluation(images, labels)[0]
            with torch.no_grad():
                robust = (model(adversarial).argmax(1) == labels).numpy()
            print(verdict, robust.mean(), f"{time.perf_counter() - start:.0f} s", flush=True)
            verdicts[verdict] = np.packbits(robust)
            np.savez_compressed(file, allow_pickle=False, **verdicts)


if __name__ == "__main__":
    main()
