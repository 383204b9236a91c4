"""Everything with I/O: HTTP in, HTTP out, the ledger, the command line. It decides nothing that a policy should."""
