"""Stage 0: run the command line. Imports nothing at first, so that Ctrl-C ends also the imports without a traceback."""


def main() -> None:
    """Run the command in `sys.argv`.

    Raises:
        SystemExit: with one line, after an error that the user can put right; with status 130, after Ctrl-C.
    """
    try:
        from dreamfusion.cli.command import run_command

        run_command()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # dreamfusion.error.INTERRUPTED, which may not be imported yet
