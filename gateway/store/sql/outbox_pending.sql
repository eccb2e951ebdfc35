-- Events that MQTT has not taken.
select count(*) from event where published_at is null
