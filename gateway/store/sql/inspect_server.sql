-- No parameters. The server, its settings that matter here, and how full it is. What this role may not read is null.
select current_setting('server_version_num')::int as version, clock_timestamp() as at,
       pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' as is_read_only,
       current_setting('fsync') = 'on' as fsync, current_setting('full_page_writes') = 'on' as full_page_writes,
       current_setting('synchronous_commit') as synchronous_commit, current_setting('autovacuum') = 'on' as autovacuum,
       current_setting('synchronous_standby_names') as synchronous_standbys,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true), '0')::int as server_sessions,
       (select count(*) from pg_stat_activity where backend_type = 'client backend') as used_sessions,
       (select rolconnlimit from pg_roles where rolname = current_user) as role_sessions,
       (select datconnlimit from pg_database where datname = current_database()) as database_sessions,
       (select age(datfrozenxid) from pg_database where datname = current_database()) as transaction_age,
       pg_has_role(current_user, 'pg_read_all_stats', 'usage') as sees_all,
       (select setting from pg_settings where name = 'data_directory') as data_directory,
       coalesce(host(inet_server_addr()) in ('127.0.0.1', '::1'), true) as is_local,
       pg_database_size(current_database()) as bytes,
       (select failed_count > 0 and last_failed_time > coalesce(last_archived_time, '-infinity') from pg_stat_archiver) as archiving_fails
