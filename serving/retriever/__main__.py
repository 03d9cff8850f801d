"""`python -m serving.retriever --help`."""

from serving.lean import keep_out

if __name__ == "__main__":
    keep_out()
    from serving.retriever.app import main

    main()
