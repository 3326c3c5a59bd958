"""The adversarial training step: PGD-10, CIFAR's shape, here and in PyTorch, in turns."""

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from bat_jax.config import default
from bat_jax.runtime import peak
from bat_jax.training.building import build
from bat_jax.training.experiment import Experiment
from stages import sets, trained
from stages.machine import default_device, precision
from stages.peer import Peer, missing, peer
from stages.stage import Stage, Values, with_smaller_batches

TURNS = 5
# Seconds of a case: to compile with autotuning and to take turns.
NEEDS = {"here": 25.0, "eager": 12.0, "compiled": 45.0, "unrolled": 40.0}
UNROLLED = (2, 5)


@dataclasses.dataclass(frozen=True)
class Case:
    """A training step.

    Attributes:
      model: a model of `bat_jax.models.create`.
      dtype: of the computation.
      batch: images.
      width: of the model.
      shape: of the images.
      classes: of the data set.
      steps: of the attack.
    """

    model: str
    dtype: str
    batch: int
    width: int = 64
    shape: tuple[int, int, int] = (32, 32, 3)
    classes: int = 100
    steps: int = 10

    @property
    def key(self) -> str:
        """What it is called in the records."""
        return f"{self.model}/{self.dtype}/{self.batch}"


# The most telling first.
CASES = tuple(
    Case(model, dtype, batch)
    for dtype, batch in (
        ("bfloat16", 1024),
        ("bfloat16", 512),
        ("float32", 512),
        ("bfloat16", 128),
        ("float32", 1024),
        ("float32", 128),
    )
    for model in ("preact_resnet18", "resnet18")
)
TOY = (Case("small_cnn", "bfloat16", 16, 4, (28, 28, 1), 10, 2),)


def run(stage: Stage) -> None:
    """Times the cases, the most telling figures first: the time may be over before the last."""
    cases = TOY if stage.run.smoke else CASES
    reason = missing("torch")
    first, *others = cases
    unrolled = UNROLLED[:1] if stage.run.smoke else UNROLLED
    plan: list[tuple[Case, str | int]] = [(first, side) for side in ("here", "eager", "compiled")]
    plan += [(case, side) for case in others for side in ("here", "eager")]
    plan += [(first, steps) for steps in unrolled]
    plan += [(case, "compiled") for case in others]
    with peer() as torch:
        timing: _Timing | None = None
        for case, side in plan:
            if timing is None or timing.case != case:
                timing = None  # Frees its memory.
                timing = _Timing(stage, case, torch)
            if isinstance(side, int):
                timing.unrolled(side)
            elif side == "here":
                timing.alone()
            elif reason:
                stage.skip(f"{case.key}/{side}", reason, precision=precision(case.dtype))
            else:
                timing.against(side)


class _Timing:
    """One case; its program is compiled once, where one of its figures is missing."""

    def __init__(self, stage: Stage, case: Case, torch: Peer) -> None:
        self._stage, self.case, self._torch = stage, case, torch
        # By batch and unroll; one at a time.
        self._held: tuple[tuple[int, int], trained.Timed] | None = None

    def alone(self) -> None:
        """Times the step here."""
        self._measure("here", lambda batch: self._figures(batch))

    def against(self, side: str) -> None:
        """Times the step here and in PyTorch, in turns."""

        def turns(batch: int) -> Values:
            ours, theirs = [], []
            step, question = self._compiled(batch), self._question(batch, side)
            prepared = self._torch.ask({**question, "steps": 1})["prepared"]
            for _ in range(TURNS):
                ours.append(step.take(self._steps))
                answer = self._torch.ask({**question, "steps": self._steps})
                theirs.append(answer["seconds"])
            return {
                **_spread("ms", ours),
                **_spread("torch_ms", theirs),
                "ratio": statistics.median(ours) / statistics.median(theirs),
                "torch_prepared_seconds": prepared,
                "torch_bytes": answer["bytes"],
            }

        self._measure(side, turns)

    def unrolled(self, steps: int) -> None:
        """Times the step with several attack steps an iteration of the loop."""
        self._measure(
            f"unroll {steps}",
            lambda batch: self._figures(batch, unroll=steps),
            needs=NEEDS["unrolled"],
        )

    @property
    def _steps(self) -> int:
        return 1 if self._stage.run.smoke else 5

    def _measure(
        self, side: str, function: Callable[[int], Values], needs: float | None = None
    ) -> None:
        needs = NEEDS[side] if needs is None else needs
        self._stage.measure(
            f"{self.case.key}/{side}",
            lambda: with_smaller_batches(self.case.batch, function, least=8),
            precision=precision(self.case.dtype),
            needs=2 if self._stage.run.smoke else needs,
        )

    def _figures(self, batch: int, unroll: bool | int = False) -> Values:
        step = self._compiled(batch, unroll)
        seconds = [step.take(self._steps) for _ in range(TURNS)]
        middle = statistics.median(seconds)
        rate = _peak(self.case.dtype)
        found = {
            **_spread("ms", seconds),
            "images_per_second": batch / middle,
            "compile_seconds": step.compile_seconds,
            "bytes": step.bytes,
            "tflop_per_second": step.flops / middle / 1e12,
        }
        return found if rate is None else {**found, "of_peak": step.flops / middle / rate}

    def _compiled(self, batch: int, unroll: bool | int = False) -> trained.Timed:
        if self._held is None or self._held[0] != (batch, unroll):
            self._held = None
            step = trained.Timed.of(experiment(self.case, batch, unroll))
            self._held = (batch, unroll), step
        return self._held[1]

    def _question(self, batch: int, side: str) -> dict[str, Any]:
        case = {**dataclasses.asdict(self.case), "batch": batch}
        return {"do": "step", "case": case, "compiled": side == "compiled"}


def experiment(case: Case, batch: int, unroll: bool | int = False) -> Experiment:
    """Returns PGD-AT of a case on random images."""
    config = default()
    config.data.name = "digits"  # Never read.
    config.data.validation = 1
    config.model.name = case.model
    config.model.width = case.width
    config.model.dtype = case.dtype
    config.objective.name = "pgd_at"
    config.attack.num_steps = case.steps
    config.train.batch_size = batch
    config.evaluation.attacks = ()
    config.parallel.devices = 1
    dataset = sets.random(shape=case.shape, classes=case.classes, train=4 * batch + 1, test=1)
    found = build(config, dataset=dataset)
    programs = dataclasses.replace(found.programs, unroll=unroll)
    return dataclasses.replace(found, programs=programs)


def _peak(dtype: str) -> float | None:
    name = jnp.dtype(dtype).name
    return peak.together([default_device()], "bfloat16" if name == "bfloat16" else "float32")


def _spread(name: str, seconds: list[float]) -> Values:
    low, middle, high = (1e3 * of(seconds) for of in (min, statistics.median, max))
    return {name: middle, f"{name}_low": low, f"{name}_high": high, f"{name}_n": len(seconds)}
