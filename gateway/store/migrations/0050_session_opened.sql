-- Who is logged in is shown with since when; of those who were before this, it is not known.
alter table dashboard_session add column opened_at timestamptz;
alter table dashboard_session alter column opened_at set default now();
