# SPDX-License-Identifier: Apache-2.0
"""What this machine can do: `examine` looks, `diffmf doctor` shows it."""

from dataclasses import asdict, dataclass

from .finding import Finding, Severity


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order of looking."""

    findings: tuple[Finding, ...]

    @property
    def node_can_run(self) -> bool:
        """Whether the node can start here with its default settings."""
        return all(finding.state is not Severity.FAIL for finding in self.findings)

    def advice(self) -> list[str]:
        """Return what to do, the blocking first, then errors, without doubles."""
        urgency = {Severity.FAIL: 0, Severity.ERROR: 1}
        ordered = sorted(self.findings, key=lambda finding: urgency.get(finding.state, 2))
        return list(dict.fromkeys(finding.advice for finding in ordered if finding.advice))

    def as_dict(self) -> dict:
        """For JSON."""
        return {'node_can_run': self.node_can_run, 'advice': self.advice(),
                'findings': [asdict(finding) for finding in self.findings]}


def examine() -> Diagnosis:
    """Look at everything; takes some seconds, because libraries are imported in processes of their
    own."""
    from . import network, ros, system
    looks = (system.machine, system.libraries, network.examine, system.jetson, ros.libraries,
             ros.transport, system.energy)
    return Diagnosis(tuple(finding for look in looks for finding in look()))
