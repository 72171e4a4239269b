"""The auth service: keys, scopes and the audit log. Owns the schema auth."""
