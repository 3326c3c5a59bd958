"""Runs attacks one after another, each on the images that withstood the previous ones."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt64
from tqdm import tqdm

from bat_jax.attacks import geometry, single
from bat_jax.attacks.classifier import HostImages
from bat_jax.attacks.engine import Engine
from bat_jax.attacks.judge import Judge
from bat_jax.attacks.protocol import Attack, Outcome
from bat_jax.attacks.sampling import Sample
from bat_jax.attacks.verdict_file import VerdictFile
from bat_jax.attacks.verdicts import STANDING, Verdicts


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The attacks in order, on all images, and the verdicts so far.

    The attacks run in `search`; images that it breaks and `judge` does not are attacked in `exact`.
    """

    search: Engine
    exact: Engine
    judge: Judge
    attacks: Sequence[Attack]
    names: Sequence[str]
    images: HostImages
    labels: Int[np.ndarray, " images"]
    targets: Sequence[Int[np.ndarray, "images _"]]
    keys: Key[Array, " images"]
    scale: Float[np.ndarray, " images"] | None
    verdicts: Verdicts
    file: VerdictFile | None
    progress: bool

    def run_whole(self, number: int) -> None:
        """Runs the rest of one attack on all images that withstood the previous ones."""
        verdicts = self.verdicts
        rows = verdicts.left_for(number)
        parts = single.batches(rows, self.exact.batch_size)
        with self._bar(self.names[number], len(rows)) as bar:
            bar.update(sum(len(part) for part in parts[: verdicts.batches]))
            for part in parts[verdicts.batches :]:
                bar.set_postfix(standing=int((verdicts.broken_by == STANDING).sum()))
                self._run(number, part)
                verdicts.batches += 1
                bar.update(len(part))
                self._write()
        verdicts.attack, verdicts.batches = number + 1, 0

    def run_sampled(
        self, ranks: UInt64[np.ndarray, " images"], tolerance: float | None, confidence: float
    ) -> Sample | None:
        """Runs the current and all following attacks on a growing sample.

        Returns:
          The sample, or None once every image is drawn.
        """
        verdicts, first = self.verdicts, self.verdicts.attack
        rows = verdicts.left_for(first)
        order = rows[np.argsort(ranks[rows])]
        # The current attack may have begun without a tolerance, on these images.
        is_attacked = np.zeros(len(self.labels), bool)
        for part in single.batches(rows, self.exact.batch_size)[: verdicts.batches]:
            is_attacked[part] = True
        found = Sample.of(tuple(self.names[first:]), order, confidence)
        found = found.extended(verdicts.broken_by[order[: verdicts.drawn]] != STANDING)
        width = 0.0 if tolerance is None else tolerance * len(self.labels)
        with self._bar(" and ".join(found.attacks), len(order)) as bar:
            bar.update(found.drawn)
            while found.drawn < len(order):
                if tolerance is not None and found.is_within(width):
                    return found
                count = len(order) if tolerance is None else found.needed(width)
                rest = order[found.drawn :][:count]
                part = single.batches(rest, self.exact.batch_size)[0]
                for number in range(first, len(self.names)):
                    left = part[verdicts.broken_by[part] == STANDING]
                    self._run(number, left[~is_attacked[left]] if number == first else left)
                verdicts.drawn += len(part)
                found = found.extended(verdicts.broken_by[part] != STANDING)
                bar.set_postfix(broken="{} to {}".format(*found.limits))
                bar.update(len(part))
                self._write()
        verdicts.attack, verdicts.batches, verdicts.drawn = len(self.names), 0, 0
        return None

    def _run(self, number: int, rows: Int[np.ndarray, " batch"]) -> None:
        """Runs one attack on a batch, and verifies what it claims."""
        if not len(rows):
            return
        began = time.perf_counter()
        refuted = self._attacked(self.search, number, rows)
        if self.search is not self.exact and len(refuted):
            self._attacked(self.exact, number, refuted)
        self.verdicts.seconds[number] += time.perf_counter() - began

    def _attacked(
        self, engine: Engine, number: int, rows: Int[np.ndarray, " batch"]
    ) -> Int[np.ndarray, " refuted"]:
        """Attacks in one engine, and returns the images whose break is not confirmed."""
        x, y = self.images[rows], self.labels[rows]
        attack = self.attacks[number]
        scale = None if self.scale is None else self.scale[rows]
        outcome = engine.run(attack, x, y, self.targets[number][rows], self.keys[rows], scale)
        _verify(self.judge, attack, number, rows, x, scale, outcome, self.verdicts)
        return rows[outcome.found & (self.verdicts.broken_by[rows] == STANDING)]

    def _bar(self, title: str, total: int) -> tqdm:
        return tqdm(total=total, desc=title, unit="image", disable=not self.progress)

    def _write(self) -> None:
        if self.file is not None:
            self.file.write(self.verdicts)


def _verify(
    judge: Judge,
    attack: Attack,
    number: int,
    rows: Int[np.ndarray, " batch"],
    images: HostImages,
    scale: Float[np.ndarray, " batch"] | None,
    outcome: Outcome,
    verdicts: Verdicts,
) -> None:
    """Verifies an attack's images: re-evaluates the model and checks the constraint."""
    verdicts.flat[number, rows] = outcome.flat
    claimed = np.flatnonzero(outcome.found)
    if not len(claimed):
        return
    adversarial = outcome.adversarial[claimed]
    logits, is_correct = judge(adversarial, rows[claimed], number + 1)
    is_broken = ~is_correct
    radius = attack.epsilon if scale is None else attack.epsilon * scale[claimed]
    is_broken &= geometry.within(adversarial, images[claimed], radius, attack.norm)
    broken = rows[claimed[is_broken]]
    verdicts.broken_by[broken] = number
    verdicts.is_nan[broken] |= np.isnan(logits[is_broken]).any(axis=1)
    if verdicts.adversarial is not None:
        verdicts.adversarial[broken] = adversarial[is_broken]
