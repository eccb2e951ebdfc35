"""What may be set for SAP ECC. There is no standard service for measurement documents: path, sets and
properties are the customer's own.
"""

from __future__ import annotations

from pydantic import Field, field_validator

from connectors.kit.sap.access import SapSettings, UserCredentials
from connectors.kit.sap.documents import Fields
from connectors.kit.settings import Block

_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
_NAMES = Fields()


class DocumentProperties(Block):
    """Names of the properties of a measurement document; those of S/4HANA by default."""

    number: str = Field(_NAMES.number, pattern=_NAME, description="The document's number.")
    meter: str = Field(_NAMES.meter, pattern=_NAME, description="The measuring point.")
    date: str = Field(_NAMES.date, pattern=_NAME, description="Date of the reading, Edm.DateTime.")
    time: str = Field(_NAMES.time, pattern=_NAME, description="Time of the reading, Edm.Time.")
    value: str = Field(
        _NAMES.value,
        pattern=_NAME,
        description="The value in the unit of entry, Edm.Double, Edm.Decimal or Edm.String.",
    )
    unit: str = Field(_NAMES.unit, pattern=_NAME, description="The unit of entry.")
    text: str | None = Field(
        _NAMES.text, pattern=_NAME, description="A text of 40 characters; null where the service has none."
    )
    reader: str | None = Field(
        _NAMES.reader, pattern=_NAME, description="Who took the reading; null where the service has none."
    )
    reversed: str | None = Field(
        _NAMES.reversed,
        pattern=_NAME,
        description="Whether the document was reversed, Edm.Boolean; null where the service has none.",
    )


class PointProperties(Block):
    """Where the service lists measuring points, so that meters can be discovered."""

    entity_set: str = Field("MeasuringPointSet", pattern=_NAME, description="The set of measuring points.")
    number: str = Field("MeasuringPoint", pattern=_NAME, description="The point's number.")
    title: str = Field("MeasuringPointDescription", pattern=_NAME, description="Its description.")
    unit: str = Field("MeasurementRangeUnit", pattern=_NAME, description="Its unit.")


class NotificationProperties(Block):
    """Where the service lists maintenance notifications, so that they can be read back."""

    entity_set: str = Field("NotificationSet", pattern=_NAME, description="The set of notifications.")
    number: str = Field("MaintenanceNotification", pattern=_NAME, description="The notification's number.")
    date: str = Field(
        "LastChangeDate",
        pattern=_NAME,
        description="Date of the last change, Edm.DateTime; that of its creation until it is changed.",
    )
    time: str = Field("LastChangeTime", pattern=_NAME, description="Its time, Edm.Time.")
    phase: str | None = Field(
        "NotifProcessingPhase",
        pattern=_NAME,
        description="The phase, 1 to 5; null where the service shows none.",
    )
    reference: str | None = Field(
        "MaintNotifExtReferenceNumber",
        pattern=_NAME,
        description="The external reference; null where the service shows none.",
    )


class EccSettings(SapSettings):
    """`settings` of a connection to SAP ECC."""

    client: str = Field(pattern=r"^\d{3}$", description="SAP client (`sap-client`).")
    service: str = Field(description="Path of the service, such as /sap/opu/odata/sap/Z_MEASDOC_SRV.")
    entity_set: str = Field(
        "MeasurementDocumentSet", pattern=_NAME, description="The set of measurement documents."
    )
    properties: DocumentProperties = Field(
        DocumentProperties(), description="Names of a document's properties."
    )
    points: PointProperties | None = Field(
        None, description="Lets meters be discovered, where the service lists measuring points."
    )

    notifications: NotificationProperties | None = Field(
        None, description="Lets notifications be read back, where the service lists them."
    )

    @field_validator("service")
    @classmethod
    def _is_path(cls, path: str) -> str:
        if (
            not path.startswith("/")
            or path.startswith("//")
            or not path.isascii()
            or not path.isprintable()
            or set(path) & set(" ?#\\")
        ):
            raise ValueError("expected a path such as /sap/opu/odata/sap/Z_MEASDOC_SRV")
        return path.rstrip("/")

    @property
    def fields(self) -> Fields:
        """Of `properties`."""
        return Fields(**self.properties.model_dump())


class EccCredentials(UserCredentials):
    """`credentials` of a connection to SAP ECC."""
