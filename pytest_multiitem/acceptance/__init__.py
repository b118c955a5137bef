"""`multiitem accept`: one answer about servers that are to be deployed, from the gates and from timings."""
