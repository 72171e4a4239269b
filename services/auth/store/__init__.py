"""All SQL of the auth service: keys and usage, audit entries, chains."""
