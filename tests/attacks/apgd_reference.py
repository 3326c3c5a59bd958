"""Auto-PGD in float64 NumPy, one image at a time, from the paper: no code of the package."""

import itertools

import numpy as np

# The iterations at which eta may be halved, and the numbers of iterations between them.
CHECKPOINTS = {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}


def project(x, center, epsilon, norm):
    """Returns x in the ball around the center, then in the box."""
    offset = x - center
    if norm == "linf":
        offset = np.clip(offset, -epsilon, epsilon)
    else:
        offset = offset * min(1.0, epsilon / max(np.linalg.norm(offset), 1e-12))
    return np.clip(center + offset, 0.0, 1.0)


def direction(gradient, norm):
    """Returns the steepest ascent of length 1."""
    return np.sign(gradient) if norm == "linf" else gradient / np.linalg.norm(gradient)


def run(look, image, iterates, epsilon, norm):
    """Returns what the paper computes from the iterates of an attack on one image.

    Each iterate is computed from the given ones before it, so that rounding does not add up.

    Args:
      look: maps x to (loss, its gradient, whether x is misclassified).
      image: the center of the ball.
      iterates: x_0 to x_100 of the attack.
      epsilon: radius of the ball.
      norm: `linf` or `l2`.

    Returns:
      A dictionary: the expected iterates x_1 to x_100; eta after each iteration; the last
      misclassified iterate, else the best one; why eta was halved, a list of sets a checkpoint; how
      often the attack went back to the best iterate; and the smallest difference between two losses
      that were compared.
    """
    previous, eta = iterates[0], 2 * epsilon
    losses, following, etas, reasons = [], [], [], []
    best, best_gradient, best_loss = None, None, -np.inf
    best_at_checkpoint, halved_before, adversarial, returns = None, True, None, 0
    closest = np.inf
    for iteration, x in enumerate(iterates):
        loss, gradient, is_wrong = look(x)
        if iteration > 0:
            closest = min(closest, abs(loss - losses[-1]), abs(loss - best_loss))
        losses.append(loss)
        if is_wrong:
            adversarial = x
        if loss > best_loss:
            best, best_gradient, best_loss = x, gradient, loss
        if iteration in CHECKPOINTS:
            k = CHECKPOINTS[iteration]
            rises = sum(new > old for old, new in itertools.pairwise(losses[-k - 1 :]))
            why = set()
            if rises <= 0.75 * k:
                why.add("i")
            if not halved_before and best_loss <= best_at_checkpoint:
                why.add("ii")
            if why:
                eta /= 2
                returns += not np.array_equal(x, best)
                x, gradient = best, best_gradient
            reasons.append(why)
            halved_before, best_at_checkpoint = bool(why), best_loss
        etas.append(eta)
        target = project(x + eta * direction(gradient, norm), image, epsilon, norm)
        a = 1.0 if iteration == 0 else 0.75
        moved = x + a * (target - x) + (1 - a) * (x - previous)
        following.append(project(moved, image, epsilon, norm))
        previous = x
    return {
        "iterates": np.stack(following[:-1]),
        "etas": np.array(etas),
        "adversarial": best if adversarial is None else adversarial,
        "reasons": reasons,
        "returns": returns,
        "closest": closest,
    }
