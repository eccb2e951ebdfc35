"""The body of the doctor's report."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from gateway.http.documents import Document
from gateway.model.diagnosis import Report


class FindingDocument(Document):
    """One thing that is not as it should be."""

    severity: Literal["problem", "warning"] = Field(
        description="problem: something does not work, or can be lost, now; warning: it will come to that."
    )
    what: str
    where: str
    advice: str = Field(description="What to do.")


class CheckDocument(Document):
    """A check that was made."""

    check: str
    findings: tuple[FindingDocument, ...]
    unseen: tuple[str, ...] = Field(description="What could not be looked at from here, and why.")
    made: bool = Field(description="False: nothing of it could be looked at.")


class DoctorDocument(Document):
    """Everything that was looked at."""

    healthy: bool = Field(description="Nothing was found.")
    at: datetime
    seconds: float = Field(description="How long the look took.")
    checks: tuple[CheckDocument, ...]

    @classmethod
    def of(cls, report: Report) -> DoctorDocument:
        """The report as it is told."""
        return cls(
            healthy=report.is_healthy,
            at=report.at,
            seconds=round(report.seconds, 3),
            checks=tuple(
                CheckDocument(
                    check=each.check,
                    findings=tuple(FindingDocument.model_validate(found) for found in each.looked.findings),
                    unseen=each.looked.unseen,
                    made=each.looked.made,
                )
                for each in report.checks
            ),
        )
