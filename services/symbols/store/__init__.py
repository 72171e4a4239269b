"""All SQL of the symbols service."""
