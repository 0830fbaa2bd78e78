"""Terminal output: messages, tables, the live display, and the formatting of numbers and text."""
