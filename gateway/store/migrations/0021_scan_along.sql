-- When the log was last read to its end for this stream by a run of another connection of the same customer.
alter table stream add column scanned_along_at timestamptz;
