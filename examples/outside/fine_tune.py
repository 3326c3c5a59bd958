"""Fine-tunes a pretrained model adversarially, on handwritten digits: `python fine_tune.py`.

A network of Flax NNX learns the digits from clean images; PGD adversarial training then starts at
its weights. The same works with weights from elsewhere: `bat_jax.models.pretrained` takes any
variables, and `fresh=("head",)` draws a new head for other classes. Half a minute on two CPU cores.
"""

import nnx_cnn
from ml_collections import ConfigDict

import bat_jax
from bat_jax import data, models
from bat_jax.config import default


def config(objective: str, *, epochs: int, learning_rate: float) -> ConfigDict:
    """Returns the config of a training run, plain or adversarial."""
    found = default()
    found.objective.name = objective
    found.data.validation = 200
    found.data.crop_padding, found.data.flip = 0, False
    found.attack.epsilon, found.attack.step_size, found.attack.num_steps = 0.1, 0.03, 5
    found.train.epochs, found.train.batch_size = epochs, 64
    found.train.optimizer.learning_rate = learning_rate
    found.train.schedule.name = "cosine"
    found.checkpoint.every_epochs = epochs
    found.evaluation.step_size, found.evaluation.batch_size = 0.02, 200
    found.evaluation.losses, found.evaluation.attacks = ("cross_entropy",), ()
    found.evaluation.select_by = "clean" if objective == "standard" else "pgd"
    found.parallel.devices = 1
    return found


def main(*, epochs: int = 8, fine_tuning: int = 8) -> dict[str, dict[str, dict]]:
    """Trains both models, and prints their test accuracies before and after.

    Args:
      epochs: the number of epochs on clean images.
      fine_tuning: the number of epochs of the adversarial training that follows.

    Returns:
      For `before` and `after`, each accuracy with the number of images and its 95 % interval.
    """
    digits = data.load("digits")
    create = nnx_cnn.create(digits.num_classes, digits.image_shape)
    plain = config("standard", epochs=epochs, learning_rate=0.1)
    before = bat_jax.fit(plain, model=create, dataset=digits)
    after = bat_jax.fit(
        config("pgd_at", epochs=fine_tuning, learning_rate=0.05),
        model=models.pretrained(create, before.last),
        dataset=digits,
    )
    found = {}
    for name, fitted in (("before", before), ("after", after)):
        found[name] = fitted.results["last"]["test"]
        for attack, accuracy in found[name].items():
            low, high = accuracy["interval"]
            print(
                f"{name}: {attack} {accuracy['accuracy']:.3f}"
                f" ({low:.3f} to {high:.3f}; n = {accuracy['n']})"
            )
    return found


if __name__ == "__main__":
    main()
