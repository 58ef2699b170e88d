"""The fleet under fire: real processes on one PostgreSQL, a strict HubSpot, faults from a seed, invariants."""
