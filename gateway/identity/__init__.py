"""People who log in by an identity provider (OpenID Connect)."""
