"""Property-based isolation: a search for requests under which a relation does not hold, and their replay."""
