"""The ranker behind Triton."""
