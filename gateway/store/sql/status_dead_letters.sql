-- Dead letters held, by reason.
select reason, count(*) as held from dead_letter group by reason
