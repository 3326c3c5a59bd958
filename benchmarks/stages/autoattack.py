"""AutoAttack's standard set on a ResNet-18, here and in PyTorch on the same device."""

import hashlib
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax import models
from bat_jax.attacks.auto_attack import STANDARD, Name, autoattack
from bat_jax.attacks.classifier import LogitsFn
from bat_jax.data import Dataset
from bat_jax.interop import export_weights, import_weights
from bat_jax.models.adapters import with_fields
from bat_jax.runtime.files import write_npz
from bat_jax.training.building import build
from bat_jax.training.experiment import Experiment
from stages import recipes, sets, trained
from stages.machine import BFLOAT16, HIGHEST, TF32, precision
from stages.peer import missing, peer
from stages.stage import Stage, Values, with_smaller_batches

# Seconds: to train the network, to attack it here and there.
NEEDS = {"network": 45.0, "here": 40.0, "torch": 30.0}
EQUAL_VERDICTS = 0.995
# In what AutoAttack searches; float32 at the highest precision confirms what it finds.
_SEARCHES = {"here, search in bfloat16": BFLOAT16, "here, search in TF32": TF32}
_SIDES = ("here", "torch", "here, compiled")


def run(stage: Stage) -> None:
    """Trains a network briefly, then attacks it here, in PyTorch, and here in other ways."""
    reason = missing("torch", "pyautoattack", "safetensors")
    if reason:
        stage.skip("torch", reason, precision=HIGHEST)
    weights = stage.run.work / "autoattack" / "network.safetensors"
    # At toy size, one of them shows that the other runs too.
    searches = list(_SEARCHES)[:1] if stage.run.smoke else list(_SEARCHES)
    sides = [side for side in (*_SIDES, *searches) if not (reason and side == "torch")]
    if not weights.exists() and all(stage.has(side) for side in sides):
        for side in sides:
            stage.measure(side, dict, precision=_SEARCHES.get(side, HIGHEST))  # Says so.
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
    theirs = None
    if not reason:
        theirs = problem.measured(
            stage, "torch", lambda batch: problem.torch(batch, here), needs["torch"]
        )
    again = here["seconds"] if here else 0
    problem.measured(stage, "here, compiled", lambda batch: problem.again(batch, theirs), again)
    for side in searches:
        problem.measured(
            stage, side, lambda batch, side=side: problem.searched(batch, side, here), again
        )


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
        in_bfloat16 = with_fields(self._model, dtype=jnp.bfloat16)
        self._search_fns: dict[str, LogitsFn] = {
            BFLOAT16: models.logits_fn(in_bfloat16, self._variables),
            TF32: self._logits_fn,
        }

    def measured(self, stage: Stage, side: str, function: Any, needs: float) -> Values | None:
        """Measures a side, under a key of its own if the file has it of another network."""
        key = side
        found = stage.find(side)
        if found is not None and found["network"] != self._digest:
            key = f"{side}, network {self._digest}"
        return stage.measure(
            key,
            lambda: with_smaller_batches(self._count, function, least=8),
            precision=_SEARCHES.get(side, HIGHEST),
            needs=needs,
        )

    def here(self, batch: int, search_fn: LogitsFn | None = None) -> Values:
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
            search_fn=search_fn,
        )
        seconds = {name: round(of_attack, 2) for name, of_attack in found.seconds.items()}
        return {
            "seconds": time.perf_counter() - began,
            "by_attack": seconds,
            **self._values(found.robust),
        }

    def again(self, batch: int, theirs: Values | None) -> Values:
        """Attacks here once more, with programs from the compilation cache, and compares."""
        found = self.here(batch)
        if theirs is not None:
            found["ratio"] = found["seconds"] / theirs["seconds"]
        return found

    def searched(self, batch: int, side: str, exact: Values | None) -> Values:
        """Attacks here in another precision, and compares."""
        found = self.here(batch, self._search_fns[_SEARCHES[side]])
        if exact is not None:
            found |= {
                "ratio": found["seconds"] / exact["seconds"],
                "equal_verdicts": float(np.mean(_robust(exact) == _robust(found))),
            }
        return found

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
        dataset = sets.patterns(shape=(32, 32, 3), classes=100, train=5_000, test=1_000)
    return build(config, dataset=dataset)


def _train(experiment: Experiment, weights: Path, steps: int) -> None:
    state, _ = trained.train(experiment, steps)
    weights.parent.mkdir(parents=True, exist_ok=True)
    variables = jax.device_get(state.evaluated)
    model: Any = experiment.model
    export_weights(weights, "resnet18", variables, mean=model.mean, std=model.std)
