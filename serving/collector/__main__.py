"""`python -m serving.collector --help`."""

from serving.lean import keep_out

if __name__ == "__main__":
    keep_out()
    from serving.collector.server import main

    main()
