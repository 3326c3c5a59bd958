"""Attacks each image at the middle one of the radii that are still possible for it."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Array, Float, Int, Key
from tqdm import tqdm

from bat_jax.attacks import geometry, single, versions
from bat_jax.attacks.brackets import Brackets
from bat_jax.attacks.classifier import HostImages
from bat_jax.attacks.engine import Engine
from bat_jax.attacks.fab import FabTargeted
from bat_jax.attacks.geometry import Norm
from bat_jax.attacks.judge import Judge
from bat_jax.attacks.protocol import Attack
from bat_jax.attacks.verdict_file import VerdictFile


@dataclasses.dataclass(frozen=True)
class Search:
    """The attacks on all images, and their brackets so far."""

    engine: Engine
    judge: Judge
    norm: Norm
    images: HostImages
    keys: Key[Array, " images"]
    radii: Float[np.ndarray, " radii"]
    names: Sequence[str]
    brackets: Brackets
    file: VerdictFile | None
    progress: bool

    def run(self, strongest: Int[np.ndarray, "images targets"]) -> None:
        """Runs FAB-T, then attacks at the middle of the possible radii until one is left.

        Args:
          strongest: the wrong classes in descending order of their clean logits.
        """
        brackets, labels = self.brackets, self.judge.labels
        rounds: list[tuple[str, Callable[[Int[np.ndarray, " batch"]], None]]] = []
        if "fab-t" in self.names:
            nearest = FabTargeted(1.0, self.norm, to_the_end=True)
            rounds.append(("fab-t", lambda rows: self._to_the_nearest(nearest, strongest, rows)))
        others = [name for name in self.names if name != "fab-t"]
        starts = versions.starts("standard", self.norm, None, others)
        targets = {
            name: versions.rounds(name, "standard", self.norm, starts[name], labels, strongest)
            for name in others
        }
        attacks = {name: versions.create(name, 1.0, self.norm) for name in others}
        most = math.ceil(math.log2(len(self.radii) + 1)) if others else 0
        rounds += [
            (f"bisection {place + 1} of {most}", lambda rows: self._bisect(attacks, targets, rows))
            for place in range(most)
        ]
        for title, attack in rounds[brackets.round :]:
            self._run_round(title, attack)
            if title == "fab-t":
                brackets.fab = brackets.distance.copy()
        if self.file is not None:
            self.file.write(brackets)

    def _run_round(self, title: str, attack: Callable[[Int[np.ndarray, " batch"]], None]) -> None:
        """Runs the rest of a round on the images whose radii were open when it began."""
        brackets = self.brackets
        if not brackets.batches:
            brackets.in_round = brackets.is_open
        rows = np.flatnonzero(brackets.in_round)
        parts = single.batches(rows, self.engine.batch_size)
        with tqdm(total=len(rows), desc=title, unit="image", disable=not self.progress) as bar:
            bar.update(sum(len(part) for part in parts[: brackets.batches]))
            for part in parts[brackets.batches :]:
                attack(part)
                brackets.batches += 1
                bar.update(len(part))
                if self.file is not None:
                    self.file.write(brackets)
        brackets.round, brackets.batches = brackets.round + 1, 0

    def _to_the_nearest(
        self,
        attack: Attack,
        targets: Int[np.ndarray, "images targets"],
        rows: Int[np.ndarray, " batch"],
    ) -> None:
        """Runs FAB-T towards every target, within the distance that is known already."""
        for target in targets.T:
            self._attack("fab-t", attack, target[rows, None], rows, self.brackets.distance[rows])

    def _bisect(
        self,
        attacks: Mapping[str, Attack],
        targets: Mapping[str, Int[np.ndarray, "images _"]],
        rows: Int[np.ndarray, " batch"],
    ) -> None:
        """Attacks images at the middle of their possible radii."""
        brackets = self.brackets
        middle = (brackets.withstood[rows] + brackets.broken_at[rows]) // 2
        for name, attack in attacks.items():
            left = brackets.broken_at[rows] > middle
            if left.any():
                some, radii = rows[left], self.radii[middle[left]]
                self._attack(name, attack, targets[name][some], some, radii)
        stands = brackets.broken_at[rows] > middle
        brackets.withstood[rows[stands]] = middle[stands] + 1

    def _attack(
        self,
        name: str,
        attack: Attack,
        targets: Int[np.ndarray, "batch rounds"],
        rows: Int[np.ndarray, " batch"],
        radii: Float[np.ndarray, " batch"],
    ) -> None:
        """Attacks images, each in a ball of its own, and records nearer adversarial images."""
        brackets, x, y = self.brackets, self.images[rows], self.judge.labels[rows]
        scale = radii.astype(np.float32)
        outcome = self.engine.run(attack, x, y, targets, self.keys[rows], scale)
        brackets.flat[self.names.index(name), rows] |= outcome.flat
        claimed = np.flatnonzero(outcome.found)
        if not len(claimed):
            return
        found, x, radii, rows = (
            outcome.adversarial[claimed],
            x[claimed],
            radii[claimed],
            rows[claimed],
        )
        _, is_correct = self.judge(found, rows, 1)
        # What exceeds the radius by rounding alone counts at the radius.
        distance = np.minimum(geometry.distances(found, x, self.norm), radii)
        is_nearer = ~is_correct & geometry.within(found, x, radii, self.norm)
        is_nearer &= distance < brackets.distance[rows]
        nearer = rows[is_nearer]
        if brackets.adversarial is not None:
            brackets.adversarial[nearer] = found[is_nearer]
        brackets.distance[nearer] = distance[is_nearer]
        brackets.broken_at[nearer] = np.searchsorted(self.radii, distance[is_nearer])
