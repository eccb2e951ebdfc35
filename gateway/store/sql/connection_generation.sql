-- $1 connection. Counts every generation that was ever offered: a refused one is never used again.
update connection set generations = generations + 1 where connection_id = $1 returning generations
