"""Predicts the cost of a training step on a TPU slice, by ahead-of-time compilation.

XLA's TPU compiler runs on any machine; it reports the memory per chip and all collectives. The time
is a roofline prediction, not a measurement. Install the compiler, libtpu, in a separate environment
(requirements-tpu.txt): with it, ordinary runs would search for TPUs.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jaxtyping import Int, Int64
from ml_collections import ConfigDict

from bat_jax import memorization, methods, parallel
from bat_jax.data import Dataset, Split
from bat_jax.ensemble.cost import member_cost
from bat_jax.ensemble.members import Ensemble, even_rounds
from bat_jax.errors import UserError, in_short
from bat_jax.training.building import build
from bat_jax.training.experiment import Experiment
from bat_jax.training.flops import forward_flops, lowered_step
from bat_jax.training.state import number_of_parameters

# Assumed, not measured: the fractions of a chip's peak rates that a good program reaches.
_MATRIX_EFFICIENCY = 0.4
_BANDWIDTH_EFFICIENCY = 0.7
_COLLECTIVE_SECONDS = 10e-6
# The fraction of a chip's memory available to an ensemble.
_MEMORY_PART = 0.8


@dataclasses.dataclass(frozen=True)
class Chip:
    """The specification of one chip, from Google Cloud's documentation.

    Attributes:
      flops: bfloat16 operations per second.
      memory: bytes.
      bandwidth: memory bandwidth, bytes per second.
      interconnect: total bandwidth of all links to other chips, bytes per second.
    """

    flops: float
    memory: float
    bandwidth: float
    interconnect: float


# https://cloud.google.com/tpu/docs/v5e, /v5p and /v6e.
CHIPS = {
    "v5e": Chip(197e12, 16 * 2**30, 819e9, 200e9),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 600e9),
    "v6e": Chip(918e12, 32 * 2**30, 1640e9, 448e9),
}

# Image shape, classes, training and test images: enough to compile without the data.
_SHAPES = {
    "digits": ((8, 8, 1), 10, 1348, 449),
    "fashion_mnist": ((28, 28, 1), 10, 60_000, 10_000),
    "cifar10": ((32, 32, 3), 10, 50_000, 10_000),
    "cifar100": ((32, 32, 3), 100, 50_000, 10_000),
    "tiny_imagenet": ((64, 64, 3), 200, 100_000, 10_000),
    "tiny_imagenet_superclasses": ((64, 64, 3), 10, 50_000, 5_000),
}

_TYPE_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the compiled step.

    Attributes:
      kind: its kind, such as `all-reduce`.
      size: bytes of its result, per chip.
      in_loop: whether it is in the body of a loop: that of the attack, or of a batch's parts.
    """

    kind: str
    size: int
    in_loop: bool


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one step on one chip, with every iteration of the attack's loop counted.

    Attributes:
      flops: floating-point operations.
      traffic: bytes to and from the chip's memory.
      memory: bytes allocated while it runs.
      collectives: the collectives, in program order.
    """

    flops: float
    traffic: float
    memory: int
    collectives: tuple[Collective, ...]

    def seconds(self, chip: Chip, chips: int, repeats: int) -> tuple[float, float, float]:
        """Returns the predicted seconds of products, of memory traffic and of collectives.

        Collectives in a loop count `repeats` times.
        """
        talk = 0.0
        for collective in self.collectives if chips > 1 else ():
            times = repeats if collective.in_loop else 1
            # A ring all-reduce sends its operand twice, minus one part.
            passes = 2 if collective.kind == "all-reduce" else 1
            sent = passes * collective.size * (chips - 1) / chips
            talk += times * (sent / chip.interconnect + _COLLECTIVE_SECONDS)
        return (
            self.flops / (chip.flops * _MATRIX_EFFICIENCY),
            self.traffic / (chip.bandwidth * _BANDWIDTH_EFFICIENCY),
            talk,
        )


def describe(config: ConfigDict, topology: str) -> tuple[str, bool]:
    """Compiles the training step of a config for a slice, and reports whether it fits.

    Args:
      config: the whole config.
      topology: the slice, such as `v5e:16x16`.

    Returns:
      The text to print, and whether the step fits in a chip's memory.

    Raises:
      UserError: the topology or a field of the config is not known, or libtpu is not installed.
    """
    chip, devices = _slice(topology)
    experiment, adjusted = _experiment(config, devices)
    config = experiment.config
    chips, batch, steps = len(devices), config.train.batch_size, config.attack.num_steps
    # A collective in the loop over a batch's parts alone runs less often than this.
    repeats = steps * config.train.accumulation
    forward = forward_flops(experiment)
    passes = methods.step_passes(experiment.method, config)
    lines = [
        _headline(topology, chip, devices),
        f"{config.objective.name} on {config.data.name}, {config.model.name}, batch {batch}"
        f" ({batch // chips} per chip), {steps} attack steps",
        *adjusted,
        f"parameters: {_parameters(experiment):,}",
    ]
    try:
        cost = measure(experiment)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return "\n".join([*lines, f"does not fit: {in_short(error)}"]), False
    fits = cost.memory <= chip.memory
    products, traffic, talk = cost.seconds(chip, chips, repeats)
    # Products and traffic overlap; collectives are assumed not to.
    seconds = max(products, traffic) + talk
    lines += [
        f"memory per chip: {cost.memory / 2**20:,.1f} MiB,"
        f" {100 * cost.memory / chip.memory:.1f} % of its capacity:"
        f" {'fits' if fits else 'does not fit'}",
        f"FLOPs per chip and step: {cost.flops / 1e9:,.4g} G by XLA's count;"
        f" {forward * passes * batch / chips / 1e9:,.4g} G as {passes} forward passes",
        f"memory traffic per chip and step: {cost.traffic / 1e9:,.4g} GB by XLA's count",
        *_table(cost.collectives, repeats),
        f"predicted step: {1e3 * seconds:.3g} ms = max(products {1e3 * products:.3g},"
        f" memory traffic {1e3 * traffic:.3g}) + collectives {1e3 * talk:.3g};"
        f" {batch / seconds:,.0f} images/s",
        f"predicted training: {experiment.total_steps:,} steps,"
        f" {experiment.total_steps * seconds / 3600:.3g} h without evaluation",
        "PREDICTED by a roofline, not measured; assumed: "
        f"{100 * _MATRIX_EFFICIENCY:.0f} % of peak FLOP/s, {100 * _BANDWIDTH_EFFICIENCY:.0f} % of"
        " memory bandwidth, rings over all links at their full rate, "
        f"{1e6 * _COLLECTIVE_SECONDS:.0f} us per collective, no overlap of collectives, no waiting"
        " for the host",
    ]
    return "\n".join(lines), fits


def describe_ensemble(config: ConfigDict, topology: str) -> tuple[str, bool]:
    """Compiles for a slice to find how many members of an ensemble fit on a chip.

    Members do not communicate, so compiling for one chip suffices.

    Args:
      config: the whole config, of the job `memorization`.
      topology: the slice, such as `v5e:4x4`.

    Returns:
      The text to print, and whether a member fits on a chip.

    Raises:
      UserError: the topology or a field of the config is not known, or libtpu is not installed.
    """
    chip, devices = _slice(topology)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        # The choices for TPU, not for this machine's back end.
        config.programs.update(execution="vmap", members_at_once=1)
        config.programs.update(training="xla", attack="xla", evaluation="xla")
    experiment, _ = _experiment(config, devices[:1])
    settings, chips = config.memorization, len(devices)
    usable = _MEMORY_PART * chip.memory
    try:
        fitting = Ensemble(experiment, members=settings.members).fitting(usable)
    except (UserError, jax.errors.JaxRuntimeError) as error:
        return f"does not fit: {in_short(error)}", False
    size = even_rounds(settings.members, fitting=fitting, devices=chips)
    cost = member_cost(experiment)
    flops = settings.members * (cost.training + cost.scoring)
    seconds = flops / (chips * chip.flops * _MATRIX_EFFICIENCY)
    return "\n".join(
        [
            _headline(topology, chip, devices),
            f"{settings.members:,} members: {config.objective.name} on {config.data.name},"
            f" {config.model.name}, {_parameters(experiment):,} parameters, batch"
            f" {config.train.batch_size}",
            f"members per chip, at once: {fitting} in {100 * _MEMORY_PART:.0f} % of its memory;"
            f" {math.ceil(settings.members / size)} round(s) of {size} on the slice",
            f"FLOPs of all members: {flops / 1e15:,.4g} P",
            f"predicted: at least {seconds / 3600:.3g} h on {chips} chips",
            f"PREDICTED from the FLOPs, not measured; assumed: {100 * _MATRIX_EFFICIENCY:.0f} % of"
            " peak FLOP/s, which small members may not reach",
        ]
    ), True


def measure(experiment: Experiment) -> Cost:
    """Compiles the step with and without its attack, and returns the cost per chip.

    XLA counts a loop's body once, so the cost with K attack steps is that of the step without an
    attack plus K times the cost that the loop adds. The parts of a batch (`train.accumulation`)
    count as separate steps.
    """
    compiled = lowered_step(experiment).compile()
    memory: Any = compiled.memory_analysis()
    held = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
        # The new state reuses the buffers of the old.
        - memory.alias_size_in_bytes
    )
    flops, traffic = _counts(compiled)
    steps = experiment.config.attack.num_steps
    if experiment.method.attack is not None and steps > 1:
        rest = _counts(lowered_step(_without_attack(experiment)).compile())
        flops = rest[0] + steps * (flops - rest[0])
        traffic = rest[1] + steps * (traffic - rest[1])
    parts = experiment.config.train.accumulation
    found = tuple(collectives_of(compiled.as_text() or ""))
    return Cost(parts * flops, parts * traffic, held, found)


def collectives_of(program: str) -> Iterator[Collective]:
    """Yields the collectives of a compiled program, in the text form of XLA's HLO."""
    bodies = set(re.findall(r"\bbody=%?([\w.\-]+)", program))
    in_loop = False
    for line in program.splitlines():
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            in_loop = head[1] in bodies
        found = re.match(rf"\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ({_COLLECTIVES})(-start)?\(", line)
        if found:
            shapes = re.findall(r"(\w+)\[([\d,]*)\]", found[1])
            if found[3] and found[2] != "all-reduce":
                # Asynchronous collectives list their operands before their results.
                shapes = shapes[len(shapes) // 2 :]
            size = sum(
                _TYPE_BYTES.get(kind, 4) * math.prod(int(n) for n in numbers.split(",") if n)
                for kind, numbers in shapes
            )
            yield Collective(found[2], size, in_loop)


def _slice(topology: str) -> tuple[Chip, list[jax.Device]]:
    generation = topology.partition(":")[0]
    if generation not in CHIPS:
        raise UserError(
            f"--aot_topology={topology}: unknown generation; expected one of {', '.join(CHIPS)}"
            " and a shape, such as v5e:16x16"
        )
    try:
        return CHIPS[generation], list(
            topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
        )
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--aot_topology={topology}: {in_short(error)}; expected an existing slice, such as"
            " v5e:16x16, and the environment of requirements-tpu.txt (make topology)"
        ) from None


def _headline(topology: str, chip: Chip, devices: list[jax.Device]) -> str:
    hosts = len({device.process_index for device in devices})
    return (
        f"{topology}: {len(devices)} chips of {chip.memory / 2**30:.0f} GiB,"
        f" {chip.flops / 1e12:.0f} TFLOP/s (bfloat16), {chip.bandwidth / 1e9:.0f} GB/s;"
        f" {hosts} host(s)"
    )


def _experiment(config: ConfigDict, devices: list[jax.Device]) -> tuple[Experiment, list[str]]:
    """Returns the experiment on the slice, and the changes to its config."""
    config = config.copy_and_resolve_references()
    changed = []
    with config.unlocked():
        # By default, this would be chosen for this machine's back end.
        config.programs.unroll = False
        # The stand-in has no real labels, and no training step depends on these.
        config.evaluation.by = ()
        config.evaluation.corruptions.update(path=None, names=None)
        for section, field in ((config.train, "train"), (config.evaluation, "evaluation")):
            shares = len(devices) * section.get("accumulation", 1)
            batch = math.ceil(section.batch_size / shares) * shares
            if batch != section.batch_size:
                changed.append(
                    f"config.{field}.batch_size: {batch} in place of {section.batch_size}, which"
                    f" {len(devices)} chips cannot share evenly: set it for the run too"
                )
                section.batch_size = batch
    return build(config, dataset=_stand_in(config), mesh=parallel.mesh_of(devices)), changed


def _stand_in(config: ConfigDict) -> Dataset | None:
    """Returns black images of the data set's shape, or None to read the real ones.

    The first have the ids and labels of `memorization.estimates`, if any; the others arbitrary
    ones.
    """
    if config.data.name not in _SHAPES:
        return None
    if any(isinstance(entry, str) for entry in config.data.classes or ()):
        return None
    shape, classes, trained, tested = _SHAPES[config.data.name]
    train, test = _black(trained, shape, classes), _black(tested, shape, classes)
    if config.memorization.estimates is not None:
        known = memorization.load(config.memorization.estimates)
        _identify(train, known.train_ids, known.train_labels)
        _identify(test, known.test_ids, known.test_labels)
    return Dataset(config.data.name, train, test, tuple(map(str, range(classes))))


def _black(count: int, shape: tuple[int, int, int], classes: int) -> Split:
    labels = np.arange(count, dtype=np.int32) % classes
    return Split(np.zeros((count, *shape), np.uint8), labels, np.arange(count))


def _identify(
    split: Split, ids: Int64[np.ndarray, " known"], labels: Int[np.ndarray, " known"]
) -> None:
    """Gives the first examples of a split these ids and labels, and the others unused ids."""
    known = len(ids[: len(split)])
    unused = np.setdiff1d(np.arange(len(split) + known), ids)
    split.ids[:] = np.concatenate([ids[:known], unused[: len(split) - known]])
    split.labels[:known] = labels[:known]


def _without_attack(experiment: Experiment) -> Experiment:
    config = experiment.config.copy_and_resolve_references()
    config.attack.num_steps = 0
    return dataclasses.replace(experiment, config=config)


def _counts(compiled: jax.stages.Compiled) -> tuple[float, float]:
    counts = compiled.cost_analysis() or {}
    return counts.get("flops", math.nan), counts.get("bytes accessed", math.nan)


def _parameters(experiment: Experiment) -> int:
    return number_of_parameters(jax.eval_shape(experiment.initial_state).variables)


def _table(found: tuple[Collective, ...], repeats: int) -> list[str]:
    """Returns one line for each kind and size of collectives."""
    groups = collections.Counter(found)
    lines = [f"collectives per step: {len(found)} in the program"]
    for one, times in sorted(groups.items(), key=lambda item: -item[0].size * item[1]):
        loop = f", in a loop: {repeats} times each" if one.in_loop else ""
        lines.append(f"  {times} x {one.kind} of {one.size / 1024:,.3g} KiB{loop}")
    return lines
