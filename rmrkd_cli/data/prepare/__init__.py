"""Make the label maps and lists that a data set is published without."""
