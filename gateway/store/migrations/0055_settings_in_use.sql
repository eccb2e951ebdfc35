-- New settings are verified before they are used. Until then calls go by these: settings, host, origin and delivery; null: by those of the row.
alter table connection add column in_use jsonb;

-- The configuration with which the settings became what they are: what a call by an older link brings means nothing any more.
alter table connection add column settings_since int not null default 0;
