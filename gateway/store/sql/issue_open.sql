-- $1 issue, $2 connection, $3 code, $4 severity, $5 title, $6 instructions, $7 action url, $8 request id. One that is open under the code stays, with the newer words.
insert into issue (issue_id, connection_id, code, severity, title, instructions, action_url, request_id)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (connection_id, code) where solved_at is null
do update set title = excluded.title, instructions = excluded.instructions, action_url = excluded.action_url, request_id = excluded.request_id
