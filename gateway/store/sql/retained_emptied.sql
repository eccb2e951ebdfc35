-- $1 how long ago at most. Topics that were emptied: a broker that was killed since may retain them again, and a speaker that stood still
-- may have spoken late.
select topic from published_status where ended_at > now() - $1::interval
union all
select topic from retained_issue where emptied_at > now() - $1::interval
union all
select topic from retained_alert where emptied_at > now() - $1::interval
union all
select topic from retained_device where emptied_at > now() - $1::interval
