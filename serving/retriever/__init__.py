"""The retriever: user tower, index and the other candidate sources behind one KServe predictor."""
