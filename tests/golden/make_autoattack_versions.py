"""Writes autoattack_versions.npz: verdicts of the PyTorch implementation in L1, `plus` and `rand`.

    /tmp/reference/bin/python tests/golden/make_autoattack_versions.py

make_autoattack.py says how to make the environment. On the first 100 test images of Fashion-MNIST
and the adversarially trained network of train_small_cnn.py, the file holds

- `standard/l1/<attack>`: which images each attack of the standard version in L1 leaves, alone, for
  several seeds of `apgd-ce` and `apgd-t`;
- `plus/<norm>/<attack>`: which images each attack of `plus` leaves, alone, with the restarts of
  that version; in L1, for several seeds of APGD;
- `rand/robust`: which images `rand` leaves in Linf if Gaussian noise is added to the input, for
  several seeds;
- `rand/right`: for each seed and image, in how many of 200 further draws the image that `rand`
  returns is classified correctly; `rand/clean`: the same of the clean image;
- `rand/l2/robust` and `rand/l2/right`: the same in L2.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from make_autoattack import EPSILONS, HERE, SmallCNN
from pyautoattack import AutoAttack

FILE = HERE / "autoattack_versions.npz"
IMAGES = HERE / "fashion_mnist_100.npz"
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
PLUS = ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
L1 = 4.0
SEEDS_IN_L1 = 3
NOISE = 0.2
SEEDS = 5
DRAWS = 200
# By norm, the names of the arrays of `rand`.
RAND = {"Linf": "rand", "L2": "rand/l2"}


def images_and_labels(file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the images (NCHW in [0, 1]) and labels."""
    with np.load(file, allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    x = images.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
    return torch.tensor(np.ascontiguousarray(x)), torch.tensor(labels.astype(np.int64))


def is_right(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns whether each image is classified correctly, in one pass."""
    with torch.no_grad():
        return model(images).argmax(1) == labels


def main() -> None:
    """Runs what the file lacks; all of it takes more than half an hour on one busy core."""
    torch.set_num_threads(1)
    images, labels = images_and_labels(IMAGES)
    network = SmallCNN(HERE / "small_cnn_adversarial.npz").eval()
    found = dict(np.load(FILE, allow_pickle=False)) if FILE.exists() else {}
    runs = [("standard", "L1", L1, name) for name in STANDARD]
    runs += [
        ("plus", norm, epsilon, name)
        for norm, epsilon in {**EPSILONS, "L1": L1}.items()
        for name in PLUS
    ]
    for version, norm, epsilon, name in runs:
        key = f"{version}/{norm.lower()}/{name}"
        if key in found:
            continue
        left = []
        for seed in range(SEEDS_IN_L1 if norm == "L1" and "apgd" in name else 1):
            attack = AutoAttack(network, norm=norm, eps=epsilon, seed=seed, version=version)
            attack.attacks_to_run = [name]
            start = time.perf_counter()
            adversarial = attack.run_standard_evaluation(images, labels)[0]
            left.append(is_right(network, adversarial, labels).numpy())
            print(key, left[-1].mean(), f"{time.perf_counter() - start:.0f} s", flush=True)
        found[key] = np.stack(left) if norm == "L1" else left[0]
        np.savez_compressed(FILE, allow_pickle=False, **found)

    class Noisy(torch.nn.Module):
        """The network behind noise."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return network(x + NOISE * torch.randn_like(x))

    model = Noisy()
    if "rand/clean" not in found:
        found["rand/clean"] = sum(is_right(model, images, labels).numpy() for _ in range(DRAWS))
        print("rand clean", found["rand/clean"].mean() / DRAWS, flush=True)
    for norm, prefix in RAND.items():
        if f"{prefix}/right" in found:
            continue
        robust, right = [], []
        for seed in range(SEEDS):
            attack = AutoAttack(model, norm=norm, eps=EPSILONS[norm], seed=seed, version="rand")
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                state = Path(folder) / "state.json"
                adversarial = attack.run_standard_evaluation(images, labels, state_path=state)[0]
                robust.append(np.array(json.loads(state.read_text())["_robust_flags"]))
            right.append(sum(is_right(model, adversarial, labels).numpy() for _ in range(DRAWS)))
            print(prefix, seed, robust[-1].mean(), right[-1].mean() / DRAWS)
            print(f"{time.perf_counter() - start:.0f} s", flush=True)
        found |= {f"{prefix}/robust": np.stack(robust), f"{prefix}/right": np.stack(right)}
        np.savez_compressed(FILE, allow_pickle=False, **found)
    np.savez_compressed(FILE, allow_pickle=False, **found)


if __name__ == "__main__":
    main()
