"""What a stranger's file holds, found out before anything is built from it."""
