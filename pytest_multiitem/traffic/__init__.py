"""A user's own requests: read, drawn, made into token ids, and where they came from."""
