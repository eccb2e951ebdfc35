-- $1 connection. How many meters the system refuses, and some of them with its words.
select count(*) over () as refused, meter, error from meter_made where connection_id = $1 and state = 'refused' order by meter limit 5
