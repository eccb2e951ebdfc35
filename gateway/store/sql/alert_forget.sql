-- $1 how long alerts are kept that are over.
delete from alert where alert_id in (select alert_id from alert where state = 'cleared' and not noting and cleared_at < now() - $1::interval limit 5000)
