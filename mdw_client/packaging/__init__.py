"""Makes what other teams install: the wheel mdw-client, the descriptor set, and the protos."""
