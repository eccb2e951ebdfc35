-- How many customers are over a quota now, by quota.
select quota, count(*) as customers from quota_excess where ended_at is null group by quota
