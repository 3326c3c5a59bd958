"""Runs the example from a program: `python fit.py`, in this folder."""

import mixer
import page
import shapes

import bat_jax


def main() -> None:
    """Trains the model on the images and prints its test accuracies."""
    dataset = shapes.load()
    fitted = bat_jax.fit(page.get_config(), model=mixer.Mixer(dataset.num_classes), dataset=dataset)
    for attack, found in fitted.results["best"]["test"].items():
        low, high = found["interval"]
        print(f"{attack}: {found['accuracy']:.3f} ({low:.3f} to {high:.3f}; n = {found['n']})")


if __name__ == "__main__":
    main()
