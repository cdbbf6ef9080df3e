"""``python -m star_edge`` is the command line."""

from star_edge.cli import main

if __name__ == "__main__":
    main()
