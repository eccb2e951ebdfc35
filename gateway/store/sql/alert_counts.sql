-- Alerts that are not over, by severity.
select severity, count(*) as open from alert where state <> 'cleared' group by severity
