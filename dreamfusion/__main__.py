"""`python -m dreamfusion`, the same as `python launch.py`."""

from dreamfusion.cli.main import main

if __name__ == "__main__":
    main()
