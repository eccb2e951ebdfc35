-- Of several brokers each may hold a session of ours, with filters of its own: what one of them was told to give up another still has.
alter table ingest_subscription add column broker text not null default '';
alter table ingest_subscription drop constraint ingest_subscription_pkey, add primary key (client_id, broker, filter);
