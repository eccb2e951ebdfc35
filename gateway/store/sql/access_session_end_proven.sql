-- $1 issuer, $2 subject or null, $3 session at the identity provider or null; one of the two is there. Of a person whose session the provider did not name when it began, it may be the one that is meant.
delete from dashboard_session
where issuer = $1 and coalesce($2::text, $3::text) is not null and subject = coalesce($2, subject)
  and (sid is not distinct from coalesce($3, sid) or (sid is null and $2 is not null))
returning name
