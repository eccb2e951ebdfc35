"""What may be set for SAP S/4HANA, and the credentials it takes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from connectors.kit.sap.access import AnyCredentials, SapSettings
from connectors.kit.settings import Block


class NewMeasuringPoint(Block):
    """What SAP wants to know of a measuring point that Fieldgate makes. Copy it from a point of yours."""

    category: str = Field(min_length=1, max_length=1, description="Measuring point category.")
    technical_object_type: str = Field(
        min_length=1, max_length=10, description="Kind of the technical object, as existing points show it."
    )
    equipment: str | None = Field(None, max_length=18, description="The equipment that it belongs to.")
    functional_location: str | None = Field(None, max_length=30, description="Or the functional location.")
    characteristic: str | None = Field(
        None, max_length=10, description="Internal number of the characteristic that is measured."
    )
    counter: bool = Field(False, description="The point is a counter.")

    @model_validator(mode="after")
    def _has_one_object(self) -> NewMeasuringPoint:
        if (self.equipment is None) == (self.functional_location is None):
            raise ValueError("expected equipment or functional_location")
        return self


class Notification(Block):
    """How alerts become maintenance notifications."""

    type: str = Field("M2", min_length=2, max_length=2, description="Notification type.")
    planning_plant: str | None = Field(None, max_length=4, description="Maintenance planning plant.")
    priorities: dict[Literal["low", "medium", "high"], str] = Field(
        {"low": "4", "medium": "3", "high": "2"}, description="Priority by severity."
    )


class S4hanaSettings(SapSettings):
    """`settings` of a connection to SAP S/4HANA."""

    meters_by: Literal["number", "position"] = Field(
        "number",
        description="Whether a mapping's `meter` is a measuring point's number or its position number.",
    )
    new_measuring_point: NewMeasuringPoint | None = Field(
        None, description="Lets Fieldgate make measuring points; needs `meters_by: position`."
    )
    notification: Notification = Field(
        Notification(), description="How alerts become maintenance notifications."
    )


class S4hanaCredentials(AnyCredentials):
    """`credentials` of a connection to SAP S/4HANA."""
