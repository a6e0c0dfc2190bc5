"""Gatekeeper: a flash-sale gate that never oversells and never forgets what it acknowledged."""

__version__ = "0.1.0"
