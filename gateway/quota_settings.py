"""What the configuration says of quotas: for every customer, and for one."""

from __future__ import annotations

from pydantic import Field

from gateway.model.quota import Quota
from gateway.settings_base import CustomerId, Section

MAX_METRICS_PER_DEVICE = 1_024


class CustomerQuotaSettings(Section):
    """One customer's quotas; what is not given is as for all."""

    messages_per_second: float | None = Field(None, gt=0, le=1e9)
    bytes_per_second: float | None = Field(None, gt=0, le=1e12)
    devices: int | None = Field(None, ge=1, le=10_000_000)
    metrics_per_device: int | None = Field(None, ge=1, le=MAX_METRICS_PER_DEVICE)
    stored_bytes: int | None = Field(None, ge=1 << 20)


class QuotasSettings(Section):
    """What a customer may send and keep, unless `customers` says otherwise. `over_quota_bytes`: what is kept,
    as dead letters, of what a customer sends beyond it.
    """

    messages_per_second: float = Field(5_000, gt=0, le=1e9)
    bytes_per_second: float = Field(1 << 20, gt=0, le=1e12)
    devices: int = Field(10_000, ge=1, le=10_000_000)
    metrics_per_device: int = Field(1_024, ge=1, le=MAX_METRICS_PER_DEVICE)
    stored_bytes: int | None = Field(None, ge=1 << 20)
    over_quota_bytes: int = Field(4 << 20, ge=0)
    customers: dict[CustomerId, CustomerQuotaSettings] = Field({})

    def of(self, customer: str | None) -> Quota:
        """A customer's quotas; None: of what is nobody's."""
        own = self.customers.get(customer or "", _NO_OWN)
        return Quota(
            messages_per_second=own.messages_per_second or self.messages_per_second,
            bytes_per_second=own.bytes_per_second or self.bytes_per_second,
            devices=own.devices or self.devices,
            metrics_per_device=own.metrics_per_device or self.metrics_per_device,
            stored_bytes=own.stored_bytes or self.stored_bytes,
        )


_NO_OWN = CustomerQuotaSettings()
