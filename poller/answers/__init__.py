"""What a person asks a state: why tasks did not complete, what became of one, how it stands. Pure."""
