"""How the programs of a run are written for its back end: one record, resolved once.

XLA's CPU back end runs convolutions inside a loop on a single thread, and those of few channels
slowly wherever they are. Programs for it are therefore written differently: small networks as
patches and matrix products; large ones with the attack's steps one after another instead of a loop,
and half the products for wide 3x3 convolutions. On GPU and TPU the plain forms are right. What is
computed is the same up to float rounding.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

import jax

from bat_jax.errors import UserError
from bat_jax.kernels.convolution import CONVOLUTIONS, Convolution

# Members of a device one after another, or all at once.
Execution = Literal["map", "vmap"]
Use = Literal["training", "attack", "evaluation", "autoattack"]

OVERRIDE = "BAT_JAX_PROGRAMS"

# Of the images whose patches a core's cache of a megabyte keeps: 16 of 28x28.
_PIXELS_IN_CACHE = 16 * 28 * 28


@dataclasses.dataclass(frozen=True)
class Programs:
    """The choices that depend on the back end, the model and the job.

    Convolutions have the names of `bat_jax.kernels.convolution.CONVOLUTIONS`.

    Attributes:
      training: convolution of the pass that is differentiated with respect to parameters.
      attack: convolution of attacks in training.
      evaluation: convolution of evaluation, its PGD and the scoring of ensembles.
      autoattack: convolution of AutoAttack, whose steps are programs of their own.
      unroll: write the steps of PGD out instead of looping.
      execution: train the members of a device one after another (`map`) or at once (`vmap`).
      members_at_once: how many members a device trains at a time; None is as many as fit.
    """

    training: str
    attack: str
    evaluation: str
    autoattack: str
    unroll: bool
    execution: Execution
    members_at_once: int | None = None

    def convolution(self, use: Use) -> Convolution:
        """Returns the convolution of one of the uses."""
        return CONVOLUTIONS[getattr(self, use)]

    def __str__(self) -> str:
        """The choices on one line, for `--dry_run`."""
        members = "as many as fit" if self.members_at_once is None else str(self.members_at_once)
        return (
            f"convolutions: training {self.training}, attack {self.attack}, evaluation"
            f" {self.evaluation}, AutoAttack {self.autoattack}; PGD's steps"
            f" {'written out' if self.unroll else 'in a loop'}; members of an ensemble by"
            f" {self.execution}, {members} at a time"
        )

    def scored_at_once(self, most: int, *, pixels: int) -> int:
        """Returns how many images an ensemble's member is scored on together.

        Where convolutions are patches, only as many as a core's cache keeps until the product has
        read them.

        Args:
          most: how many may be.
          pixels: of an image.
        """
        is_products = self.evaluation == "patches"
        return min(most, max(1, _PIXELS_IN_CACHE // pixels)) if is_products else most


def resolve(
    overrides: Mapping[str, Any], *, is_small: bool, is_ensemble: bool, is_attacked: bool
) -> Programs:
    """Returns the programs that suit the default back end, or what a config asks for.

    On CPU a small network and the members of an ensemble compute convolutions as patches: those
    are faster than XLA's own of few channels and keep their threads in a loop. Trained without an
    attack they keep the batch last, which speeds the parameters' gradient up; an attack's gradient
    takes twice as long with it. PGD's steps are written out where convolutions are not products,
    which lose nothing in a loop.

    Args:
      overrides: `config.programs`; a field that is None is chosen here.
      is_small: whether the model has few channels.
      is_ensemble: whether the members of an ensemble are trained.
      is_attacked: whether training has an attack.

    Raises:
      UserError: the environment variable BAT_JAX_PROGRAMS is neither `cpu` nor `accelerator`.
    """
    is_cpu = is_cpu_style()
    plain = "cpu" if is_cpu else "xla"
    common = "patches" if is_cpu and (is_small or is_ensemble) else plain
    attack = overrides["attack"] or common
    without_attack = "batch_last" if common == "patches" else common
    unroll = overrides["unroll"]
    return Programs(
        training=overrides["training"] or (common if is_attacked else without_attack),
        attack=attack,
        evaluation=overrides["evaluation"] or common,
        autoattack=overrides["evaluation"] or plain,
        unroll=is_cpu and attack not in ("patches", "batch_last") if unroll is None else unroll,
        execution=overrides["execution"] or ("map" if is_cpu else "vmap"),
        members_at_once=overrides["members_at_once"],
    )


def is_cpu_style() -> bool:
    """Returns whether programs are to be written the way that suits the CPU back end.

    They are where CPU is the default back end. The environment variable BAT_JAX_PROGRAMS overrides
    it: `cpu` or `accelerator`, as in compiling on one machine for another.

    Raises:
      UserError: the variable is something else.
    """
    chosen = os.environ.get(OVERRIDE)
    if chosen is None:
        return jax.default_backend() == "cpu"
    if chosen not in ("cpu", "accelerator"):
        raise UserError(
            f"{OVERRIDE} is {chosen!r}; expected cpu or accelerator, or no such variable"
        )
    return chosen == "cpu"
