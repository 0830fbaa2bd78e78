"""The tables and the HTML report of a comparison."""
