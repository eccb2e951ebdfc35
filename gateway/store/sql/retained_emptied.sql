-- Topics that were emptied within a day: a broker that was killed since may retain them again.
select topic from published_status where ended_at > now() - interval '1 day'
union all
select topic from retained_issue where emptied_at > now() - interval '1 day'
