-- $1 connections. The open issues of each.
select connection_id, issue_id, code, severity, since, title, instructions, action_url, request_id
from issue where connection_id = any($1) and solved_at is null
