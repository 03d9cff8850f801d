"""`python -m serving.ranker --help`."""

from serving.lean import keep_out

if __name__ == "__main__":
    keep_out()
    from serving.ranker.server import main

    main()
