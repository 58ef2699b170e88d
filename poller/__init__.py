"""Polls HubSpot's async import-from-URL tasks in bulk until each has exactly one outcome."""

__version__ = "0.1.0"
