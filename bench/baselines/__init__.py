"""What Gatekeeper is measured against. Each is a process: `python -m bench.baselines.NAME PORT REDIS POSTGRES`."""
