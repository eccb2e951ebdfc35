-- $1 connection ids. Open issues, oldest first.
select issue_id, connection_id, code, severity, since, title, instructions, action_url, request_id
from issue where connection_id = any($1) and solved_at is null
order by since, issue_id
