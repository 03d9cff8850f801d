"""`python -m serving.recommender --help`."""

from serving.lean import keep_out

if __name__ == "__main__":
    keep_out()
    from serving.recommender.app import main

    main()
