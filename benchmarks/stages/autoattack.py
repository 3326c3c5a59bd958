"""AutoAttack's standard set on a ResNet-18, here and in PyTorch on the same device."""

import hashlib
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bat_jax import models
from bat_jax.attacks.auto_attack import STANDARD, Name, autoattack
from bat_jax.data import Dataset
from bat_jax.interop import export_weights, import_weights
from bat_jax.runtime.files import write_npz
from bat_jax.training.experiment import Experiment, build
from stages import recipes, sets, trained
from stages.machine import HIGHEST, precision
from stages.peer import missing, peer
from stages.stage import Stage, Values, with_smaller_batches

# Seconds: to train the network, to attack it here and there.
NEEDS = {"network": 30.0, "here": 40.0, "torch": 30.0}
EQUAL_VERDICTS = 0.995
_SIDES = ("here", "torch", "here, compiled")


def run(stage: Stage) -> None:
    """Trains a network briefly, then attacks it here, in PyTorch, and here once more."""
    reason = missing("torch", "pyautoattack", "safetensors")
    if reason:
        stage.skip("torch", reason, precision=HIGHEST)
    weights = stage.run.work / "autoattack" / "network.safetensors"
    sides = [side for side in _SIDES if not (reason and side == "torch")]
    if not weights.exists() and all(stage.has(side) for side in sides):
        for side in sides:
            stage.measure(side, dict, precision=HIGHEST)  # Says that it is measured.
        return
    needs = dict.fromkeys(NEEDS, 2.0) if stage.run.smoke else NEEDS
    experiment = _experiment(stage)
    if not weights.exists():
        seeds = (experiment.config.seed,)
        dtype = precision(experiment.config.model.dtype)
        steps = 0 if stage.run.smoke else 300
        if stage.clock.left < needs["network"]:
            stage.skip("network", "too little time to train it", precision=dtype, seeds=seeds)
            return
        _train(experiment, weights, steps)
        stage.note("network", f"{steps} steps of PGD-AT", precision=dtype, seeds=seeds)
    problem = _Problem(experiment, weights, smoke=stage.run.smoke)
    here = problem.measured(stage, "here", problem.here, needs["here"])
    if not reason:
        problem.measured(stage, "torch", lambda batch: problem.torch(batch, here), needs["torch"])
    problem.measured(stage, "here, compiled", problem.here, here["seconds"] if here else 0)


class _Problem:
    """A network, images and their labels."""

    def __init__(self, experiment: Experiment, weights: Path, *, smoke: bool) -> None:
        count = 8 if smoke else 1000
        self._attacks: tuple[Name, ...] = ("apgd-ce", "apgd-t") if smoke else STANDARD
        self._weights, self._count = weights, count
        self._digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
        test = experiment.dataset.test
        self._images = test.images[:count].astype(np.float32) / np.float32(255)
        self._labels = test.labels[:count]
        self._epsilon = experiment.config.attack.epsilon
        classes = experiment.dataset.num_classes
        self._model, self._variables = import_weights(weights, "resnet18", classes)
        # One function, so that what it compiles to is kept.
        self._logits_fn = models.logits_fn(self._model, self._variables)

    def measured(self, stage: Stage, side: str, function: Any, needs: float) -> Values | None:
        """Measures a side, under a key of its own if the file has it of another network."""
        key = side
        found = stage.find(side)
        if found is not None and found["network"] != self._digest:
            key = f"{side}, network {self._digest}"
        return stage.measure(
            key,
            lambda: with_smaller_batches(self._count, function, least=8),
            precision=HIGHEST,
            needs=needs,
        )

    def here(self, batch: int) -> Values:
        """Attacks here."""
        began = time.perf_counter()
        found = autoattack(
            self._logits_fn,
            self._images,
            self._labels,
            jax.random.key(0),
            epsilon=self._epsilon,
            attacks=self._attacks,
            batch_size=batch,
            keep_adversarial=False,
        )
        return {"seconds": time.perf_counter() - began, **self._values(found.robust)}

    def torch(self, batch: int, ours: Values | None) -> Values:
        """Attacks in PyTorch, and compares."""
        file = self._weights.with_name("problem.npz")
        normalization = {"mean": np.array(self._model.mean), "std": np.array(self._model.std)}
        write_npz(file, {"images": self._images, "labels": self._labels, **normalization})
        with peer() as torch:
            answer = torch.ask(
                {
                    "do": "autoattack",
                    "problem": str(file),
                    "weights": str(self._weights),
                    "epsilon": self._epsilon,
                    "attacks": list(self._attacks),
                    "batch": batch,
                }
            )
        logits = np.asarray(self._logits_fn(self._images[:8]))
        robust = np.array(answer["robust"], bool)
        found = {
            "seconds": answer["seconds"],
            "logits_difference": float(np.abs(logits - np.array(answer["logits"])).max()),
            **self._values(robust),
        }
        if ours is not None:
            equal = float(np.mean(_robust(ours) == robust))
            found |= {
                "ratio": ours["seconds"] / answer["seconds"],
                "equal_verdicts": equal,
                "passed": equal >= EQUAL_VERDICTS,
            }
        return found

    def _values(self, robust: np.ndarray) -> Values:
        return {
            "robust": float(np.mean(robust)),
            "n": len(robust),
            "network": self._digest,
            "verdicts": np.packbits(robust).tobytes().hex(),
        }


def _robust(values: Values) -> np.ndarray:
    bits = np.frombuffer(bytes.fromhex(values["verdicts"]), np.uint8)
    return np.unpackbits(bits)[: values["n"]].astype(bool)


def _experiment(stage: Stage) -> Experiment:
    """Returns the training of the network: the fast recipe with a ResNet-18."""
    config = recipes.training(stage.run, "pgd_at", seed=stage.run.seeds[0])
    config.model.name = "resnet18"
    dataset: Dataset | None = None
    if stage.run.data is None:
        dataset = sets.patterns(shape=(32, 32, 3), classes=100, train=50_000, test=10_000)
    return build(config, dataset=dataset)


def _train(experiment: Experiment, weights: Path, steps: int) -> None:
    state, _ = trained.train(experiment, steps)
    weights.parent.mkdir(parents=True, exist_ok=True)
    variables = jax.device_get(state.evaluated)
    model: Any = experiment.model
    export_weights(weights, "resnet18", variables, mean=model.mean, std=model.std)
