"""PostgreSQL: the only room that imports asyncpg. One module per table family; the SQL is in `sql/`."""
