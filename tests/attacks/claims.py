"""An attack that claims to have broken images, rightly and wrongly."""

import jax.numpy as jnp
import numpy as np

from bat_jax.attacks.protocol import Outcome

EPSILON = 0.1
# What happens to an image, as changes of its first and its last pixel, and whether that breaks it.
_CHANGES = {
    "broken, but not claimed": (0.1, 0.0, False),
    "outside the ball": (0.11, 0.0, False),
    "below 0": (0.1, -0.01, False),
    "still classified correctly": (0.04, 0.1, False),
    "broken": (0.1, 0.0, True),
}
IMAGES = np.zeros((len(_CHANGES), 2, 2, 1), np.float32)
IMAGES[:, 0, 0, 0] = 0.45
LABELS = np.zeros(len(_CHANGES), np.int32)
IS_BROKEN = np.array([is_broken for *_, is_broken in _CHANGES.values()])
ADVERSARIAL = IMAGES.copy()
for _row, (_first, _last, _) in enumerate(_CHANGES.values()):
    ADVERSARIAL[_row, 0, 0, 0] += np.float32(_first)
    ADVERSARIAL[_row, 1, 1, 0] += np.float32(_last)


def logits_fn(images):
    """Returns logits of two classes; the second is larger where the first pixel exceeds 0.5."""
    score = images[:, 0, 0, 0] - 0.5
    return jnp.stack([-score, score], axis=1)


def run(engine, attack, images, labels, targets, keys, scale=None):
    """Stands in for `Engine.run`, on any of the images in their order."""
    claimed = np.arange(len(IMAGES)) > 0
    no = np.zeros(len(IMAGES), bool)
    np.testing.assert_array_equal(images, IMAGES)
    return Outcome(ADVERSARIAL.copy(), claimed, no)
