"""The findings on 1,000 images of Fashion-MNIST with five seeds and harmful images, on two cores.

    python launch.py --config=configs/fashion_mnist_findings_cpu.py --dry_run \
        --config.findings.pilot=docs/results/fashion_mnist.json
    python launch.py --config=configs/fashion_mnist_findings_cpu.py

The regime of configs/fashion_mnist_findings.py, whose first run, of three seeds, left most of (b)
undecided and BAT indistinguishable from PGD-AT. Here fewer arms have five seeds, epsilon rises in
the first ten epochs, so that no method stays at chance, and AWP begins after that. Finding (b) also
removes the images of the most negative influence under attack, from 200 members trained with PGD-3.
AutoAttack attacks the best state of every method on 1,000 test images; FAB-T and Square attack a
sample of what APGD leaves (`evaluation.tolerance`). `findings.looks` declares a second look at
eight seeds:

    python launch.py --config=configs/fashion_mnist_findings_cpu.py \
        --config.findings.seeds="(0, 1, 2, 3, 4, 5, 6, 7)"

The same command resumes after an interruption. Hardware: two CPU cores. Expected: 127 minutes, 30
of them for both ensembles; best state of pgd_at clean 81.5 %, AutoAttack 69.3 %, of bat 81.6 and
68.8 %, of trades 81.9 and 74.4 %, means of five seeds (docs/results/findings.md).
"""

from ml_collections import ConfigDict

from bat_jax.settings import fashion_mnist_findings, small_findings


def get_config() -> ConfigDict:
    """Returns the config."""
    config = small_findings(fashion_mnist_findings())
    config.findings.methods = ("pgd_at", "trades", "bat", "trades_awp", "bat_awp")
    config.findings.expected_robust = 0.7
    config.findings.harmful = (0.5,)
    # Scoring 12,000 images under PGD-20 would take longer than training a member.
    config.findings.robust_ensemble = ConfigDict(
        {
            "objective": {"name": "pgd_at"},
            # Three larger steps cost half as much as seven.
            "attack": {"num_steps": 3, "step_size": 4 / 255, "warmup_epochs": 4.0},
            "train": {
                "epochs": 15,
                "batch_size": 50,
                "optimizer": {"learning_rate": 0.05},
                "schedule": {"name": "one_cycle", "warmup_epochs": 0.0},
            },
            "memorization": {"inputs": "adversarial", "members": 200},
            "evaluation": {"num_steps": 3, "step_size": 4 / 255},
        }
    )
    return config
