"""Ordered SQL files, applied once each: nothing half-done, ever."""
