"""MAIL, a method from outside the package, on the model and the data of `page.py`.

    bat-jax --config=mail_page.py

Half a minute on two CPU cores. Expected: above 90 % clean and above 80 % under PGD-20.
"""

import page
from ml_collections import ConfigDict

from bat_jax import methods


def get_config() -> ConfigDict:
    """Returns the config."""
    config = page.get_config()
    config.objective.name = "mail:Mail"
    # Adds the section of the method, so that its fields can be set.
    methods.complete(config)
    config.objective.mail.start_epoch = 2.0
    return config
