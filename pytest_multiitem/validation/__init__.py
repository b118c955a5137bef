"""Are the files what they say? One kind of artefact a file."""
