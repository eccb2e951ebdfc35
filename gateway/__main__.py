"""`python -m gateway` is `fieldgate`."""

from gateway.cli.main import main

if __name__ == "__main__":
    main()
