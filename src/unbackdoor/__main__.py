"""`python -m unbackdoor` is the command `unbackdoor`."""

from .cli import main

if __name__ == "__main__":
    main()
