-- Every alert that is not over, for what the broker retains.
select a.* from alert a join connection c using (connection_id) where a.state <> 'cleared' and c.state <> 'disconnected'
