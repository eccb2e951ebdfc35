-- $1 issuer, $2 subject, $3 session at the identity provider or null, $4 when the ID token was made, by the provider's clock. Whether a logout was told since that
-- names this person and session as `access_session_end_proven` would.
select exists (
    select from finished_logout
    where issuer = $1 and void_at > now() and issued_at >= $4 and (subject is null or subject = $2)
      and (sid is null or sid = $3 or ($3::text is null and subject is not null))
)
