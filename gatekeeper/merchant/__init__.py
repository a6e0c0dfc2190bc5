"""What a merchant's command does to ledger and gate, in the order that lets a crash be repaired by repeating it."""
