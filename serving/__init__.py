"""What runs behind KServe: the retriever, the ranker's repository and the recommender."""
