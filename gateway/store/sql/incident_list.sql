-- $1 closed ones too, $2 customer or null for all, $3 the incident to go on after or null, $4 at most. Latest first.
select i.* from incident i
where (i.closed_at is null or $1) and ($2::text is null or $2 = any(i.customers))
  and ($3::text is null or (i.opened_at, i.incident_id) < (select p.opened_at, p.incident_id from incident p where p.incident_id = $3))
order by i.opened_at desc, i.incident_id desc
limit $4
