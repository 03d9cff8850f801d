"""The edge of the servers: who may ask, how much and how often, and the fast path of the recommender's own protocol."""
