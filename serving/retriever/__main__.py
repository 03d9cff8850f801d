"""`python -m serving.retriever --help`."""

from serving.lean import keep_out, read_where_waiting

if __name__ == "__main__":
    keep_out()
    read_where_waiting()
    from serving.retriever.app import main

    main()
