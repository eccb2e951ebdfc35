"""The cookies that a connector keeps of its system: those that can be sent back, and not without end."""

from __future__ import annotations

from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy
from urllib.request import Request

MAX_COOKIES, MAX_LENGTH = 50, 4096


class _Sendable(DefaultCookiePolicy):
    """Takes what a header may hold; anything else is as if it had not come."""

    def __init__(self) -> None:
        super().__init__()
        self.jar: CookieJar | None = None

    def set_ok(self, cookie: Cookie, request: Request) -> bool:
        """Source: RFC 6265, 4.1.1 and 6.1."""
        text = f"{cookie.name}{cookie.value or ''}{cookie.path}{cookie.domain}"
        if not (text.isascii() and text.isprintable() and len(text) <= MAX_LENGTH):
            return False
        if self.jar is not None and len(self.jar) >= MAX_COOKIES:
            self.jar.clear()
        return super().set_ok(cookie, request)


def cookie_jar() -> CookieJar:
    """An empty one. When it is full it begins anew: a session that is lost is opened again."""
    policy = _Sendable()
    policy.jar = CookieJar(policy)
    return policy.jar
