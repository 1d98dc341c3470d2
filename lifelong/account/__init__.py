"""What a run gives account of: curves by skill, a reason for every sample, the routing table, figures."""
