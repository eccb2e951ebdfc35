"""Cookies of this site, and of no other host. Over https each has the prefix `__Host-`: a browser then takes
it from this very host and over TLS alone, so no host beside or above it can plant one, such as the session of
an attacker in whose name somebody would go on unknowingly.

Source: RFC 6265bis (4.1.3.2), which wants Secure, Path=/ and no Domain for the prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import Request, Response

from gateway.http.services import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCookie:
    """One of them. `path`: where it is sent, over http; the prefix leaves no choice."""

    name: str
    path: str = "/"
    samesite: Literal["lax", "strict"]

    def read(self, request: Request, serving: Services) -> str:
        """What the browser sent; empty where nothing. One without the prefix is not looked at over https."""
        return request.cookies.get(self._name(serving), "")

    def give(self, response: Response, serving: Services, text: str, *, seconds: float) -> None:
        """Has the browser keep it for so long."""
        secure = _is_secure(serving)
        response.set_cookie(
            self._name(serving),
            text,
            max_age=int(seconds),
            path="/" if secure else self.path,
            httponly=True,
            samesite=self.samesite,
            secure=secure,
        )

    def forget(self, response: Response, serving: Services) -> None:
        """Has the browser drop it."""
        self.give(response, serving, "", seconds=0)

    def _name(self, serving: Services) -> str:
        return f"__Host-{self.name}" if _is_secure(serving) else self.name


def _is_secure(serving: Services) -> bool:
    return serving.public_url.startswith("https:")
