-- An identity provider ends the sessions of a person, or one of them, as it names them. Null: those that came by no provider, or before this.
alter table dashboard_session add column issuer text, add column subject text, add column sid text;
