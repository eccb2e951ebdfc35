-- Open incidents and open breakers by scope.
select 'incident' as what, scope, count(*) as held from incident where closed_at is null group by scope
union all
select 'breaker', scope, count(*) from breaker group by scope
