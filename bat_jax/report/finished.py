"""The finished findings of one data set, as a page across data sets needs them."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

from bat_jax.evaluation.records import CLEAN, Measure
from bat_jax.evaluation.statistics import over_seeds
from bat_jax.findings import power
from bat_jax.findings.claims import Claim, claims, counted
from bat_jax.findings.contrasts import is_adversarial, measured, tested
from bat_jax.findings.results import seeds_of

# A row of results.json: the differences of two arms in one state, by measure.
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Finished:
    """The finished findings of a data set.

    Attributes:
      name: of the data set, for readers.
      summary: the content of results.json.
    """

    name: str
    summary: Mapping[str, Any]

    @property
    def stem(self) -> str:
        """The name in names of files."""
        return re.sub(r"\W+", "_", self.name.lower()).strip("_")

    @property
    def tested(self) -> int:
        """The number of images that each run was tested on."""
        return int(self.summary["accuracies"]["bat"]["best"]["all"]["clean"]["images"])

    @property
    def kind(self) -> str:
        """What the tested images are: `test images`, or held-out training images."""
        return tested(self.summary)

    @property
    def seeds(self) -> str:
        """The number of seeds of each arm, with its noun."""
        return counted(seeds_of(self.summary))

    @functools.cached_property
    def claims(self) -> dict[str, Claim]:
        """The claims by name, by today's rules, whatever version wrote the numbers."""
        return {claim.name: claim for claim in claims(self.summary)}

    def claims_of(self, finding: str) -> dict[str, Claim]:
        """Returns the claims of a finding: `regime`, `a`, `b` or `c`."""
        return {
            name: claim for name, claim in self.claims.items() if name.partition(",")[0] == finding
        }

    def pairs(self) -> dict[tuple[str, str], dict[str, Row]]:
        """Returns the rows of (c) by its two arms, then by state."""
        found: dict[tuple[str, str], dict[str, Row]] = {}
        for row in self.summary["methods"]:
            if is_adversarial(row):
                found.setdefault((row.get("ours", "bat"), row["against"]), {})[row["state"]] = row
        return found

    def differences(self, finding: str) -> dict[str, Mapping[str, Any]]:
        """Returns the differences behind a finding by name; of (c), those of the best checkpoint.

        Arms with a run at chance are left out.
        """
        failed = power.failed_arms(self.summary)
        if finding == "c":
            attack = self.summary["attacks"]["methods"]["best"]
            return {
                f"{ours} minus {other}, {Measure.parse(key).title}": by_state["best"][key]
                for (ours, other), by_state in self.pairs().items()
                for key in (CLEAN.key, attack)
                if not failed & {ours, other}
            }
        return {
            f"{contrast.name}, {contrast.measure}": over_seeds(
                contrast.values, images=contrast.images or None
            )
            for contrast in measured(self.summary)
            if contrast.claim == finding and not failed & set(contrast.arms)
        }
