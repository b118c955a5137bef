"""One pytest run: its keys, plan, ledger and verdicts."""
