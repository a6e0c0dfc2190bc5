"""Behind the gate: drain the outboxes into the ledger, ring for what waits, prove what is unsure.

Every process here may die at any moment, and may run twice: the cursor in the ledger decides what is done.
"""
