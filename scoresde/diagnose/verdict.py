"""What `check_model` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..errors import ConfigError


class LevelLoss(NamedTuple):
    """The loss at one noise level: squared errors of eps, means over dimensions.

    Attributes:
        rho: sigma / alpha.
        loss: of the model as it is wrapped.
        stderr: standard error of the loss.
        guess: of a guess that knows only the mean and the variance of the data.
    """

    rho: float
    loss: float
    stderr: float
    guess: float


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        mistake: a short name: "time scale", "time quantity", "time reversed", "time off by one",
            "sign", "parametrization", "data range", "process", "training mode", "random",
            "neighbours", "condition" or "unknown".
        message: what is wrong, in one sentence.
        evidence: the numbers that say so.
        write: what to write instead.
    """

    mistake: str
    message: str
    evidence: str
    write: str

    def __str__(self) -> str:
        return f"{self.mistake}: {self.message} ({self.evidence}); write {self.write}"


@dataclass(frozen=True)
class ModelCheck:
    """What `check_model` found.

    Attributes:
        findings: what is wrong; empty for a model that is as it should be.
        levels: the loss of the model as given at each noise level, from low noise to high.
        notes: what could not be told apart, or could not be checked.
        nfe: network evaluations, of one sample each.
        seconds: how long it took.
    """

    findings: tuple[Finding, ...]
    levels: tuple[LevelLoss, ...]
    notes: tuple[str, ...]
    nfe: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def table(self) -> str:
        """The levels as lines of text; a ratio below 1 is better than the guess."""
        lines = ["      rho        loss    stderr   of the guess   ratio"]
        for rho, loss, stderr, guess in self.levels:
            ratio = loss / guess
            lines.append(f"{rho:9.3g}   {loss:9.4g}   {stderr:7.2g}   {guess:12.4g}   {ratio:5.3g}")
        return "\n".join(lines)

    def __str__(self) -> str:
        verdict = (
            "The model is as it should be." if self.ok else "The model is not as it should be."
        )
        lines = [
            verdict,
            *(f"- {finding}" for finding in self.findings),
        ]
        lines += [f"note: {note}" for note in self.notes]
        cost = f"{self.nfe:,} network evaluations of one sample each, {self.seconds:.0f} s"
        return "\n".join([*lines, self.table(), cost])

    def raise_if_failed(self) -> None:
        """Raise ConfigError, with everything that was found, unless the model is `ok`."""
        if not self.ok:
            raise ConfigError(f"the model fails its check\n{self}")
