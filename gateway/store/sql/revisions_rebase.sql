-- Revisions of a restored dump become this cluster's: what was scanned stays scanned, the rest is scanned again.
-- 3 is the first ordinary transaction id: below every watermark from now on.
update telemetry set revision = case
    when revision >= (select min(s.watermark) from stream s join connection c using (connection_id)
                      where c.customer_id = telemetry.customer_id and s.phase = 'incremental')
    then pg_current_xact_id() else '3'::xid8 end;
update device set revision = pg_current_xact_id();
update stream set watermark = '4'::xid8, device_watermark = '4'::xid8;
update due_window set mark = '3'::xid8;
update event set revision = '3'::xid8;
update delivery_doubt set mark = '3'::xid8;
