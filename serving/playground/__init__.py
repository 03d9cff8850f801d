"""The playground: one page to look at lists, click, and see why the next list is as it is."""
