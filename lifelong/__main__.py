"""`python -m lifelong`, as a launcher starts it: torchrun --nproc-per-node 2 -m lifelong run …"""

from lifelong.cli import main

if __name__ == "__main__":
    main()
