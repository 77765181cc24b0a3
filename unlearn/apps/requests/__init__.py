"""The deletion ledger: requests from the day they come in until they are proven and closed.

A request is located in the data, its records are taken out of the adapter, the result is verified,
and what else descends from the records is found and cleaned. Every step is an entry of a history
that shows when it was changed afterwards. The ledger holds keyed digests only; the records of open
requests lie encrypted beside it.
"""
