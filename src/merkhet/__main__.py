"""`python -m merkhet`: the command line."""

from merkhet.cli import main

if __name__ == "__main__":
    main()
