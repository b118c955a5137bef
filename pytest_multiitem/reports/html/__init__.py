"""The page: one file of HTML for a run or for any artefact, with pictures, that needs no network and no script."""
