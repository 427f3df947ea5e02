"""What cms costs, measured beside what people would use instead: `make bench`. See bench/README.md.

- `measure`: runs that take turns, medians, and targets. `report` and `figures`: what is made of them.
- `chapters/`: what is measured, one file for each kind of question. Begin with `chapters/fetch.py`, the shortest.
- `ground`: the installations of cms, the programs in C, and the one sandbox that all of them use.
- `broker` and `peers`: a running cms, and everything that stands beside it.
- `inside/`: programs that another interpreter runs. `c/`: programs that have to cost little.
"""
