"""The harness behind `make bench`: every contestant in one run, on one machine, under one client."""
