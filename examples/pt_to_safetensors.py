"""Converts a PyTorch checkpoint to the safetensors file that `import_weights` reads.

    python pt_to_safetensors.py CHECKPOINT.pt WEIGHTS.safetensors [--key=state_dict]

Run it where PyTorch and safetensors are installed; it needs neither JAX nor bat_jax. It reads only
tensors from the checkpoint (`weights_only=True`, so that no code in the file is run), takes the one
network in it, drops prefixes such as that of DataParallel, and prints what it did. Values and types
of the tensors do not change.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

# The entries in which training codes store the network's tensors. If a file has averaged and
# unaveraged weights, `model_state_dict` holds the averaged ones.
KEYS = ("model_state_dict", "state_dict", "model", "net", "last")
# DataParallel, DistributedDataParallel, torch.compile, and wrappers in a Sequential.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "0.", "1.")


class CheckpointError(Exception):
    """A checkpoint that is not one network; the message is one line."""


def state_of(checkpoint: Any, key: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """Returns a network's tensors by name, and what was done to find them.

    Args:
      checkpoint: the result of `torch.load`.
      key: the entry with the tensors; by default the first of `KEYS` that exists.

    Raises:
      CheckpointError: the entry does not exist, or does not hold tensors by name.
    """
    said = []
    while True:
        if not isinstance(checkpoint, Mapping):
            raise CheckpointError(
                f"holds a {type(checkpoint).__name__}; expected tensors by name, or an entry of"
                f" them ({', '.join(KEYS)})"
            )
        names = [str(name) for name in checkpoint]
        inner = key if key is not None else next((known for known in KEYS if known in names), None)
        if inner is None:
            break
        if inner not in names:
            raise CheckpointError(f"has no entry {inner}; expected one of {', '.join(names[:20])}")
        left = [name for name in names if name != inner]
        said.append(f"took the entry {inner}" + (f", left {', '.join(left[:9])}" if left else ""))
        checkpoint, key = checkpoint[inner], None
    others = [str(name) for name, value in checkpoint.items() if not hasattr(value, "dtype")]
    if others or not checkpoint:
        found = f"{', '.join(others[:3])} not among them" if others else "found none"
        raise CheckpointError(f"expected tensors by name, {found}; name their entry with --key")
    return {str(name): value for name, value in checkpoint.items()}, said


def without_prefixes(state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the tensors without the prefixes that all names share, and what was dropped."""
    said = []
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        said.append(f"dropped the prefix {prefix}")
    return dict(state), said


def convert(source: Path, target: Path, key: str | None) -> list[str]:
    """Writes the safetensors file of a checkpoint, and returns what was done."""
    import torch
    from safetensors.torch import save_file

    if target.exists():
        raise CheckpointError(f"{target} exists; name another file")
    try:
        checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})") from error
    # Files that are not checkpoints, or hold more than tensors, raise errors of many types.
    except Exception as error:
        raise CheckpointError(
            f"cannot be read as tensors alone ({type(error).__name__}); expected a checkpoint with"
            " a state_dict: torch.save(model.state_dict(), ...) writes one"
        ) from error
    state, said = state_of(checkpoint, key)
    state, dropped = without_prefixes(state)
    types = Counter(str(value.dtype).removeprefix("torch.") for value in state.values())
    said += [*dropped, "wrote " + ", ".join(f"{n} tensors in {t}" for t, n in types.items())]
    # Clones: safetensors refuses tensors that share memory.
    state = {name: value.detach().contiguous().clone() for name, value in state.items()}
    partial = target.with_name(f"{target.name}.partial")
    save_file(state, partial)
    partial.replace(target)
    return said


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="PyTorch checkpoint to safetensors.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--key", help=f"the entry of the network; default: {', '.join(KEYS)}")
    options = parser.parse_args()
    try:
        said = convert(options.checkpoint, options.weights, options.key)
    except ModuleNotFoundError as error:
        _fail(f"needs {error.name}: pip install torch safetensors")
    except CheckpointError as error:
        _fail(f"{options.checkpoint}: {error}")
    except OSError as error:
        _fail(f"{options.weights}: {error.strerror or error}; expected a file in a writable folder")
    for line in said:
        print(f"{options.weights}: {line}")


def _fail(message: str) -> NoReturn:
    print(f"pt_to_safetensors: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
