"""A member of a fleet: what it may do by its beats, whom it buries, which accounts it takes and gives."""
