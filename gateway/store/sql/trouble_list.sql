-- Every connection that has any, with the part of its work. Asked once a second by every replica; nearly always none.
select connection_id, part from connection_trouble
