"""`python -m edgecls` is the same as `edgecls`."""

from edgecls.cli import main

if __name__ == "__main__":
    main()
