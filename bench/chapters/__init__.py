"""What is measured: each file makes the installations of cms and what stands beside them take turns."""
