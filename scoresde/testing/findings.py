"""The report of `check_solver`."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..errors import ContractError, ScoreSDEError

_PLACES = 4
"""The number of places of one fault that a report shows."""


@dataclass(frozen=True)
class Finding:
    """A part of the contract that a solver breaks.

    Attributes:
        check: the part of the contract.
        message: what was observed, and what was expected.
    """

    check: str
    message: str


@dataclass
class Report:
    """The result of `check_solver`: findings and measurements.

    Attributes:
        solver: the `repr` of the solver.
        findings: breaches of the contract; empty for a solver that keeps it.
        measured: measured numbers by name, such as "order, VPSDE, even".
        checks: names of the checks that ran.
    """

    solver: str
    findings: list[Finding] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    @property
    def faults(self) -> list[list[Finding]]:
        """The findings in groups, each with one message, apart from numbers and places."""
        groups: dict[str, list[Finding]] = {}
        for finding in self.findings:
            key = re.sub(r"-?\d[\w.+-]*|\b(un)?even\b", "#", finding.message)
            groups.setdefault(key, []).append(finding)
        return list(groups.values())

    def raise_if_failed(self) -> None:
        """Raise a `ContractError` with the whole report if there are findings."""
        if not self.ok:
            raise ContractError(str(self))

    def __str__(self) -> str:
        count = len(self.findings)
        lines = [
            f"{self.solver}: {'keeps' if self.ok else 'breaks'} the contract of a solver, "
            f"{count} finding{'' if count == 1 else 's'} in {len(self.checks)} checks"
        ]
        for first, *others in self.faults:
            lines.append(f"  [{first.check}] {first.message}")
            if others:
                lines.append(f"    {len(others)} more of this kind{_places(first, others)}")
        width = max(map(len, self.measured), default=0)
        lines += [f"    {what:<{width}}  {value:.3g}" for what, value in self.measured.items()]
        return "\n".join(lines)

    # -- for the checks ----------------------------------------------------------------------

    @contextmanager
    def check(self, name: str) -> Iterator[Callable[[bool, str], None]]:
        """Run one check: yields `require(condition, message)`; an exception is a finding too."""
        self.checks.append(name)

        def require(condition: bool, message: str) -> None:
            if not condition:
                self.findings.append(Finding(name, message))

        try:
            yield require
        except Exception as error:  # whatever a foreign solver raises is a finding
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = (
                "" if isinstance(error, ScoreSDEError) else f" ({where.filename}:{where.lineno})"
            )
            message = f"raised {type(error).__name__}: {error}{place}"
            self.findings.append(Finding(name, message))


def _places(first: Finding, others: list[Finding]) -> str:
    """The other places of a fault, in words; empty if there is only one place."""
    names = [name for name in dict.fromkeys(f.check for f in others) if name != first.check]
    dots = "; ..." if len(names) > _PLACES else ""
    return f": {'; '.join(names[:_PLACES])}{dots}" if names else ""
