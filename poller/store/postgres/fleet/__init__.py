"""Many processes on one PostgreSQL state, each account and sink owned by one of them. The contract is core/fleet.py."""
