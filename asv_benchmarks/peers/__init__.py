"""hotloop beside its peers: `python -m asv_benchmarks.peers --help`."""
