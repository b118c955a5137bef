"""What a run leaves behind: versioned records, their schema, and how they are written and read."""
