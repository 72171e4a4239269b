"""Brings bars in from the provider and serves them."""
