-- Alerts that are not cleared, by severity.
select severity, count(*) as count from alert where state <> 'cleared' group by severity
