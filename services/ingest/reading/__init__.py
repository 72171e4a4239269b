"""Turns stored bars into the answers to questions about them."""
