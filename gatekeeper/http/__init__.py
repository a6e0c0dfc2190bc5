"""The front door: HTTP in front of the gate. A purchase takes purchase.py; everything else, operations.py."""
