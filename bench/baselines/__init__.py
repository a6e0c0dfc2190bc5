"""What Gatekeeper is measured against: each module is a process, `python -m bench.baselines.NAME PORT REDIS POSTGRES`."""
