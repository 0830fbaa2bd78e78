"""Label maps and lists that a data set does not come with, made from what it comes with."""
