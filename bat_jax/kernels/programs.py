"""The back-end-dependent choices of a run's programs: one record, resolved once.

XLA's CPU back end runs convolutions inside a loop on a single thread, and convolutions of few
channels slowly everywhere. Programs for CPU therefore compute small networks by patches and matrix
products; for large networks they unroll the attack's steps and use Winograd's products for wide 3x3
convolutions. On GPU and TPU the plain forms are best. Results agree up to float rounding.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

import jax

from bat_jax.errors import UserError
from bat_jax.kernels.convolution import CONVOLUTIONS, Convolution

# Whether a device trains its members in sequence or all at once.
Execution = Literal["map", "vmap"]
Use = Literal["training", "attack", "evaluation", "autoattack"]

OVERRIDE = "BAT_JAX_PROGRAMS"

# The number of pixels whose patches fit in a core's 1 MB cache: 16 images of 28x28.
_PIXELS_IN_CACHE = 16 * 28 * 28


@dataclasses.dataclass(frozen=True)
class Programs:
    """The choices that depend on the back end, the model and the job.

    Convolutions are named as in `bat_jax.kernels.convolution.CONVOLUTIONS`.

    Attributes:
      training: convolution of the pass that is differentiated with respect to parameters.
      attack: convolution of attacks in training.
      evaluation: convolution of evaluation, its PGD and the scoring of ensembles.
      autoattack: convolution of AutoAttack, whose steps are separate programs.
      unroll: whether to unroll the steps of PGD instead of looping, or how many steps one iteration
        of the loop runs.
      execution: train a device's members in sequence (`map`) or at once (`vmap`).
      members_at_once: how many members a device trains at a time; None means as many as fit.
    """

    training: str
    attack: str
    evaluation: str
    autoattack: str
    unroll: bool | int
    execution: Execution
    members_at_once: int | None = None

    def convolution(self, use: Use) -> Convolution:
        """Returns the convolution for a use."""
        return CONVOLUTIONS[getattr(self, use)]

    def __str__(self) -> str:
        """The choices in one line, for `--dry_run`."""
        members = "as many as fit" if self.members_at_once is None else str(self.members_at_once)
        return (
            f"convolutions: training {self.training}, attack {self.attack}, evaluation"
            f" {self.evaluation}, AutoAttack {self.autoattack}; PGD's steps"
            f" {'unrolled' if self.unroll else 'in a loop'}; members of an ensemble by"
            f" {self.execution}, {members} at a time"
        )

    def scored_at_once(self, most: int, *, pixels: int) -> int:
        """Returns the batch size for scoring a member of an ensemble.

        If convolutions are patches, the patches of a batch must fit in a core's cache.

        Args:
          most: the upper limit.
          pixels: the number of pixels of an image.
        """
        is_products = self.evaluation == "patches"
        return min(most, max(1, _PIXELS_IN_CACHE // pixels)) if is_products else most


def resolve(
    overrides: Mapping[str, Any], *, is_small: bool, is_ensemble: bool, is_attacked: bool
) -> Programs:
    """Returns the programs that suit the default back end, with a config's overrides.

    On CPU, small networks and ensembles compute convolutions by patches, which are faster than
    XLA's own for few channels and stay multi-threaded in a loop. Without an attack they keep the
    batch last, which speeds up the gradient of the parameters but doubles the time of an attack's
    gradient. PGD's steps are unrolled unless convolutions are matrix products, which are equally
    fast in a loop.

    Args:
      overrides: `config.programs`; a field that is None is resolved here.
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
    """Returns whether programs should take the forms that suit the CPU back end.

    By default, this is whether CPU is JAX's default back end. The environment variable
    BAT_JAX_PROGRAMS overrides it with `cpu` or `accelerator`, to compile on one machine for
    another.

    Raises:
      UserError: the variable has another value.
    """
    chosen = os.environ.get(OVERRIDE)
    if chosen is None:
        return jax.default_backend() == "cpu"
    if chosen not in ("cpu", "accelerator"):
        raise UserError(
            f"{OVERRIDE} is {chosen!r}; expected cpu or accelerator: correct it, or unset it"
        )
    return chosen == "cpu"
