"""Settings and servers → ScoreMatrix, kept row by row.

`runner` runs the stages over a `campaign`: `sides` (the servers), `sweep` (`rows`), `under_load`, `reference`; the
`ledger` keeps what they give. `arms` is an A/B pair, `variation` what sets its arms apart.
"""
