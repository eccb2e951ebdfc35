-- Topics of issues that the broker retains.
select topic from retained_issue where emptied_at is null
