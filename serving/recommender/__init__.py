"""The recommender: the engine as a KServe transformer in front of the retriever and the ranker."""
