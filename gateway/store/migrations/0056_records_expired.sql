-- Records that were deleted are removed after a while: a reader of the log who has not come as far as the last of them would keep what is gone, so he is told
-- to read again.
alter table record_log add column expired_to bigint not null default 0;
