"""`python launch.py prompt="a cat"`: the command line of a checkout; the installed command is `dreamfusion`."""

from dreamfusion.cli.main import main

if __name__ == "__main__":
    main()
