"""`python -m matfill` is `matfill`; torchrun starts it this way."""

from matfill.cli import main

if __name__ == "__main__":
    main()
