"""A flash sale on this machine: the same crowd at a naive endpoint, then at the gate, and the books afterwards."""
