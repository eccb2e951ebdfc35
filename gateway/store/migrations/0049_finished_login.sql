-- A login by an identity provider that is finished: it is finished once, whoever has its answer and whichever process is asked. Nothing is written for who only begins.
create table finished_login (
    state_hash bytea primary key,
    void_at    timestamptz not null          -- from then on its answer is too old anyway
);
create index finished_login_void on finished_login (void_at);
