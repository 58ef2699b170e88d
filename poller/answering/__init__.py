"""The commands that answer questions: `report`, `why`, and `status` for programs and for those who wait."""
