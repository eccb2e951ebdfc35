-- $1 table, $2 whether those that the database numbers itself belong to it, $3 whether those that it computes do. In their order.
select attname as name from pg_attribute
where attrelid = to_regclass($1) and attnum > 0 and not attisdropped and ($2 or attidentity = '') and ($3 or attgenerated = '')
order by attnum
